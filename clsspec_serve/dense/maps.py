"""From a head's answers for the views of one picture to one answer for each of its pixels.

What the official evaluations do in between is linear along each axis: a window's padded output is
resized to the window, windows are averaged where they overlap, and the sum is resized to the
picture. So it is one matrix per axis, and only the argmax is left to do at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dense.axes import picture_axis, stitch_axis
from clsspec_serve.dense.full_resolution import (
    argmax_map,
    argmax_of_mean_softmax,
    class_dtype,
    resize_map,
)
from clsspec_serve.dense.views import Tiling
from clsspec_serve.geometry import Geometry

FloatArray = NDArray[np.float32]
Grid = tuple[FloatArray, FloatArray, FloatArray]
"""Values `(M, N, ...)` with the matrices `(H, M)` and `(W, N)` that take them to the picture."""


def segment_map(logits: Sequence[FloatArray], tiling: Tiling, geometry: Geometry) -> NDArray[Any]:
    """Class ids `(H, W)`, uint8 for up to 255 classes, else uint16.

    `logits`: `(h, w, K)` of every view. They are resized to the view's pixels, averaged over
    windows, resized to the picture, and the largest wins; with a mirror image the mean of the
    softmax does, as in MMSegmentation. Pixels that were cropped away get the type's largest value.
    """
    seen, grids = _grids(logits, tiling, geometry, direct=False)
    values, rows, columns = grids[0]
    if not (len(rows) and len(columns)):
        # A crop may hold no pixel's centre, where the picture is one pixel wide.
        found = np.empty((len(rows), len(columns)), class_dtype(values.shape[-1]))
    else:
        found = argmax_map(*grids[0]) if len(grids) == 1 else argmax_of_mean_softmax(grids)
    return _placed(found, seen, geometry, np.iinfo(found.dtype).max)


def depth_map(depths: Sequence[FloatArray], tiling: Tiling, geometry: Geometry) -> FloatArray:
    """Metres `(H, W)`; NaN where the picture was cropped away.

    `depths`: `(h, w)` of every view. A single view is resized to the picture in one step, as
    DINOv2's `encode_decode` does; windows are resized and averaged first.
    """
    direct = len(tiling.rows) == len(tiling.columns) == 1
    seen, grids = _grids(depths, tiling, geometry, direct=direct)
    mean = sum(resize_map(*grid) for grid in grids) / np.float32(len(grids))
    return _placed(np.asarray(mean, np.float32), seen, geometry, np.nan)


def _grids(
    values: Sequence[FloatArray], tiling: Tiling, geometry: Geometry, *, direct: bool
) -> tuple[tuple[slice, slice], list[Grid]]:
    """The pixels that were seen, and the joined values of all windows, per mirror image."""
    height, width = values[0].shape[:2]
    rows = _to_picture(geometry, 0, _to_kept(geometry, 0, tiling.rows, height, direct))
    across = _to_kept(geometry, 1, tiling.columns, width, direct)
    windows = len(tiling.rows) * len(tiling.columns)
    grids = []
    for mirrored in range(1 + tiling.flip):
        own = values[mirrored * windows : (mirrored + 1) * windows]
        columns = _to_picture(geometry, 1, across[::-1] if mirrored else across)
        grids.append((_joined(own, len(tiling.columns)), rows[1], columns[1]))
    return (rows[0], columns[0]), grids


def _to_kept(
    geometry: Geometry, axis: int, spans: Sequence[tuple[int, int]], cells: int, direct: bool
) -> FloatArray:
    """From the cells of all windows to pixels of the kept part.

    `direct` leaves a single view's cells for the next step, which resizes.
    """
    if direct:
        return np.eye(cells, dtype=np.float32)
    return stitch_axis(spans, [cells] * len(spans), geometry.crop[axis + 2])


def _to_picture(geometry: Geometry, axis: int, kept: FloatArray) -> tuple[slice, FloatArray]:
    """The picture's pixels that were seen, and the matrix that leads to them."""
    picture, resized = geometry.image[axis], geometry.resized[axis]
    return picture_axis(picture, resized, geometry.crop[axis], geometry.crop[axis + 2], kept)


def _joined(values: Sequence[FloatArray], columns: int) -> FloatArray:
    bands = [
        np.concatenate(values[start : start + columns], axis=1)
        for start in range(0, len(values), columns)
    ]
    return np.concatenate(bands, axis=0)


def _placed(
    found: NDArray[Any], seen: tuple[slice, slice], geometry: Geometry, void: float
) -> NDArray[Any]:
    if found.shape == geometry.image:
        return found
    out = np.full(geometry.image, void, found.dtype)
    out[seen] = found
    return out
