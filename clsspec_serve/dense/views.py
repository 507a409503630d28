"""What the network is shown of one picture: all of it or windows, as it is and mirrored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dense.axes import window_spans
from clsspec_serve.errors import ImageError
from clsspec_serve.geometry import Geometry

Pixels = NDArray[np.uint8]
Spans = tuple[tuple[int, int], ...]

MOST_WEIGHTS = 1 << 26
"""Pixels along an axis times the patches of all windows there: 268 MB of float32."""


@dataclass(frozen=True)
class Tiling:
    """The windows over the part of the resized picture that was kept, and whether mirrored too.

    `rows`, `columns`: (start, stop) of the windows along each axis, in pixels of that part; the
    views are all of their products, row by row, first as it is and then mirrored left to right.
    """

    rows: Spans
    columns: Spans
    flip: bool

    @property
    def views(self) -> int:
        """How many there are."""
        return len(self.rows) * len(self.columns) * (1 + self.flip)


def tile(geometry: Geometry, window: int | None, stride: int | None, flip: bool) -> Tiling:
    """The official sliding windows; without a `window` a single view of everything.

    Raises `ImageError` where the windows are so many that putting them together would take more
    than `MOST_WEIGHTS` weights along an axis.
    """
    spans: list[Spans] = []
    for length in geometry.crop[2:]:
        if not (window and stride):
            spans.append(((0, length),))
            continue
        count = max(length - window, 0) // stride + 1
        if length * count * -(-min(window, length) // geometry.patch) > MOST_WEIGHTS:
            raise ImageError(
                f"a picture of {geometry.image[0]}x{geometry.image[1]}, shown at "
                f"{geometry.resized[0]}x{geometry.resized[1]}, takes too many windows of {window} "
                f"pixels every {stride}; accepted are a smaller size, or larger windows and steps"
            )
        spans.append(tuple(window_spans(length, window, stride)))
    return Tiling(spans[0], spans[1], flip)


def view_grid(geometry: Geometry, tiling: Tiling) -> tuple[int, int]:
    """(h, w) in patches of each of the views, their padding included."""
    spans = (tiling.rows[0], tiling.columns[0])
    height, width = (-(-(stop - start) // geometry.patch) for start, stop in spans)
    return height, width


def cut(pixels: Pixels, geometry: Geometry, tiling: Tiling) -> Iterator[Pixels]:
    """The views of a network input `(4, H, W) uint8`, each padded to whole patches by itself.

    The padding is that of DINOv2's `CenterPadding`: in the middle, the odd pixel right or below.
    """
    top, left = geometry.padding[:2]
    kept = pixels[:, top : top + geometry.crop[2], left : left + geometry.crop[3]]
    for picture in (kept, kept[:, :, ::-1])[: 1 + tiling.flip]:
        for y0, y1 in tiling.rows:
            for x0, x1 in tiling.columns:
                yield _padded(picture[:, y0:y1, x0:x1], geometry.patch)


def _padded(pixels: Pixels, patch: int) -> Pixels:
    short = [-side % patch for side in pixels.shape[1:]]
    return np.pad(pixels, ((0, 0), *((n // 2, n - n // 2) for n in short)))
