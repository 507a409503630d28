"""Validation pictures that are none of the training pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clsspec_export.fit.examples import Sample
from clsspec_export.fit.feature_cache import digest
from clsspec_serve.errors import DatasetError, UsageError


def require_apart(training: Sequence[Sample], validation: Sequence[Sample]) -> None:
    """Raise `UsageError` naming a validation picture whose content is also trained on.

    The best learning rate would be that which learns the pictures by heart. Only files of the same
    length are read. Raises `DatasetError` for a file that cannot be.
    """
    by_length: dict[int, list[Path]] = {}
    for sample in training:
        by_length.setdefault(_length(sample.image), []).append(sample.image)
    known: dict[int, dict[str, Path]] = {}
    for sample in validation:
        length = _length(sample.image)
        if length not in by_length:
            continue
        if length not in known:
            known[length] = {digest(path): path for path in by_length[length]}
        same = known[length].get(digest(sample.image))
        if same is not None:
            raise UsageError(
                f"{sample.image}: is the same picture as {same}, which is trained on; accepted is "
                "--val with other pictures"
            )


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from error
