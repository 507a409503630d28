"""PNGs of class ids → the ids that are scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import DatasetError
from clsspec_serve.evaluation.datasets.png import read_png

IGNORE = 255
"""The id of pixels that are not scored."""


def read_ids(path: Path, meaning: Mapping[int, int]) -> NDArray[np.uint8]:
    """The classes `(H, W)` uint8 of a PNG's pixels, `IGNORE` where they are not to be scored.

    `meaning`: from every id that the file may hold, in 0..255, to its class or to `IGNORE`. The
    ids are what is stored: the indices of a palette, or grey values. Raises DatasetError, naming
    the file and the pixel, for another id; see also `read_png`.
    """
    stored = read_png(path, ("P", "L", "1", "I;16"), "a PNG of class ids, indexed or grey")
    table = np.full(1 << 16, -1, np.int16)
    table[list(meaning)] = list(meaning.values())
    classes = table[stored.astype(np.uint16)]
    if classes.min() < 0:
        row, column = (int(i) for i in np.argwhere(classes < 0)[0])
        raise DatasetError(
            f"{path}: has the id {int(stored[row, column])} in row {row}, column {column}; "
            f"accepted are {ranges(meaning)}"
        )
    return classes.astype(np.uint8)


def ranges(ids: Iterable[int]) -> str:
    """Ids in words, such as `0..20, 255`."""
    ordered = sorted(ids)
    gaps = [i + 1 for i, (a, b) in enumerate(pairwise(ordered)) if b > a + 1]
    runs = [ordered[a:b] for a, b in pairwise([0, *gaps, len(ordered)])]
    return ", ".join(f"{run[0]}..{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
