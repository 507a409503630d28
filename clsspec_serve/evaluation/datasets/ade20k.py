"""ADE20K as the scene parsing benchmark gives it out: `ADEChallengeData2016`."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.categories import categories
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.evaluation.datasets.listing import files_by_name, find_root, pairs
from clsspec_serve.evaluation.datasets.samples import SegmentationDataset, SegmentationSample

FOLDERS = {"val": "validation", "train": "training"}

_MEANING = {0: IGNORE} | {stored: stored - 1 for stored in range(1, 151)}
"""0 is everything outside of the 150 classes and is not scored."""


def ade20k(root: Path, split: str) -> SegmentationDataset:
    """`images/SPLIT/*.jpg` and `annotations/SPLIT/*.png`, below the root or its one folder.

    Raises UsageError for a root of another layout, DatasetError for files without a partner.
    """
    folder = FOLDERS[split]
    needs = (f"images/{folder}", f"annotations/{folder}")
    accepted = "the folder ADEChallengeData2016 or the one that it is in"
    base = find_root(root, ("", "ADEChallengeData2016"), needs, accepted)
    images = files_by_name(base / needs[0], (".jpg",))
    labels = files_by_name(base / needs[1], (".png",))
    samples = tuple(SegmentationSample(*pair, _MEANING) for pair in pairs(images, labels))
    return SegmentationDataset("ade20k", categories("ade20k"), samples)
