"""Whether the labels of a data set can teach anything, before training takes its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clsspec_export.fit.examples import Examples
from clsspec_export.fit.objectives import percent
from clsspec_serve.errors import DatasetError
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.heads import AnyHead, DepthHead, SegmentationHead

Report = Callable[[str], None]

_FEW = 0.9
"""Below this share of depths within the range, the range or the units look mistaken."""


def check_targets(
    examples: Examples, files: Sequence[Path], description: AnyHead, what: str, report: Report
) -> None:
    """Look through all targets; what is odd but usable is reported.

    `files`: the label of each example. `what` names the set in messages, such as `training`.
    Raises `DatasetError`, naming a file, where no picture has a label that counts, and where all
    labels of a segmentation are of one class.
    """
    if isinstance(description, SegmentationHead):
        _check_classes(examples, files, description, what, report)
    elif isinstance(description, DepthHead):
        _check_depths(examples, files, description, what, report)


def _check_classes(
    examples: Examples,
    files: Sequence[Path],
    description: SegmentationHead,
    what: str,
    report: Report,
) -> None:
    counts = np.zeros(IGNORE + 1, np.int64)
    empty = []
    for index, file in enumerate(files):
        own = np.bincount(examples.target(index).ravel(), minlength=IGNORE + 1)
        counts += own
        if not own[:IGNORE].any():
            empty.append(file)
    seen = np.flatnonzero(counts[:IGNORE])
    if not len(seen):
        raise DatasetError(
            f"{empty[0]}: has no pixel of a class, and neither has any other {what} picture; "
            f"accepted are ids of classes, {IGNORE} where none applies"
        )
    if what == "training" and len(seen) < 2:
        name = description.classes[int(seen[0])].name
        raise DatasetError(
            f"{files[0].parent}: the {what} labels are all of one class, {name!r}; accepted are "
            "2 and more"
        )
    _report_empty(empty, what, report)
    if what == "training" and len(seen) < len(description.classes):
        report(f"{len(seen)} of {len(description.classes)} classes occur in the {what} labels")


def _check_depths(
    examples: Examples, files: Sequence[Path], description: DepthHead, what: str, report: Report
) -> None:
    nearest, farthest, measured, within = np.inf, -np.inf, 0, 0
    empty = []
    for index, file in enumerate(files):
        target = examples.target(index)
        known = target[np.isfinite(target) & (target > 0)]
        inside = int(((known > description.minimum) & (known < description.maximum)).sum())
        measured, within = measured + len(known), within + inside
        if len(known):
            nearest, farthest = min(nearest, known.min()), max(farthest, known.max())
        if not inside:
            empty.append(file)
    accepted = f"{description.minimum:g} to {description.maximum:g} m"
    if not measured:
        raise DatasetError(
            f"{empty[0]}: has no depth above 0, and neither has any other {what} picture; "
            "accepted are depths, 0 or NaN where none was measured"
        )
    span = f"depths from {nearest:.4g} to {farthest:.4g} m"
    if not within:
        raise DatasetError(
            f"{empty[0]}: the {what} pictures have {span}, none within {accepted}; give --units, "
            "how many of the stored numbers are a metre, or --max-depth"
        )
    share = within / measured
    hint = "; see --units and --max-depth" if share < _FEW else ""
    report(f"{span} in the {what} pictures, {percent(share)} within {accepted}{hint}")
    _report_empty(empty, what, report)


def _report_empty(empty: Sequence[Path], what: str, report: Report) -> None:
    if empty:
        report(f"{len(empty)} {what} pictures have no label that counts, such as {empty[0]}")
