"""The photographs, sizes and batches that every export is checked with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.images import read_image
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.transform import transform

_FOLDER = Path(__file__).parent / "photographs"

SMALL_GRIDS = ((16, 16), (12, 12))
LONG_GRID = (7, 10)
_LONG_PADDING = (3, 5)

Pixels = NDArray[np.uint8]


def photographs() -> list[NDArray[np.uint8]]:
    """The photographs that ship with clsspec: `(H, W, 3) uint8`."""
    return [read_image(path) for path in sorted(_FOLDER.glob("*.jpg"))]


def check_inputs(preprocessing: Preprocessing, patch: int) -> Iterator[Pixels]:
    """Network inputs `(B, 4, H, W) uint8` at three sizes, one of them not square and padded.

    The source's own size with a batch of 1, a grid of 16 x 16 (12 x 12 where that is the source's
    own) with 2, one of 7 x 10 with 5.
    """
    sizes = (tuple(side * patch for side in grid) for grid in SMALL_GRIDS)
    small = next(size for size in sizes if size != preprocessing.size)
    long = tuple(n * patch - cut for n, cut in zip(LONG_GRID, _LONG_PADDING, strict=True))
    for (height, width), batch in ((preprocessing.size, 1), (small, 2), (long, 5)):
        pictures = islice(cycle(photographs()), batch)
        yield np.stack(
            [
                transform(picture, preprocessing, patch, size=(height, width), policy="squash")[0]
                for picture in pictures
            ]
        )
