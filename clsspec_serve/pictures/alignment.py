"""Patch maps enlarged onto the part of the photograph that the network saw."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.geometry import Geometry

Bytes = NDArray[np.uint8]
Doubles = NDArray[np.float64]

DIMMED = 0.3
"""What is left of the brightness where the network saw nothing."""


def visible(geometry: Geometry) -> tuple[slice, slice]:
    """The rows and columns of patches that show some of the picture, not padding alone."""
    return _visible(geometry, 0), _visible(geometry, 1)


def enlarge(
    colours: Bytes, geometry: Geometry, photograph: Bytes, *, smooth: bool = False
) -> Bytes:
    """The patches' colours where they lie in the photograph, of whose shape the result is.

    `colours`: `(h, w, 3)` uint8. `photograph`: `(H, W, 3)` uint8, the whole picture at any size.
    Every pixel has the colour of the patch that its centre lies in, as
    `Geometry.image_to_patch` finds it; with `smooth` colours are interpolated, bicubically. What
    was cropped away shows the photograph, dimmed.
    """
    out = np.rint(photograph * np.float32(DIMMED)).astype(np.uint8)
    rows, in_rows = _positions(geometry, 0, photograph.shape[0])
    columns, in_columns = _positions(geometry, 1, photograph.shape[1])
    if not (rows.size and columns.size):
        return out
    if smooth:
        out[in_rows, in_columns] = _interpolated(colours, rows, columns)
    else:
        out[in_rows, in_columns] = colours[rows.astype(np.intp)][:, columns.astype(np.intp)]
    return out


def _visible(geometry: Geometry, axis: int) -> slice:
    before = geometry.padding[axis] - min(geometry.crop[axis], 0)
    end = min(geometry.crop[axis + 2], geometry.resized[axis] - geometry.crop[axis])
    after = geometry.padding[axis] + end
    return slice(before // geometry.patch, -(-after // geometry.patch))


def _positions(geometry: Geometry, axis: int, side: int) -> tuple[Doubles, slice]:
    """Where pixel centres lie, in patches from the grid's edge, and which of `side` pixels."""
    centres = (np.arange(side) + 0.5) * geometry.resized[axis] / side - geometry.crop[axis]
    seen = np.flatnonzero((centres >= 0) & (centres < geometry.crop[axis + 2]))
    positions = (centres[seen] + geometry.padding[axis]) / geometry.patch
    return positions, slice(seen[0], seen[-1] + 1) if seen.size else slice(0)


def _interpolated(colours: Bytes, rows: Doubles, columns: Doubles) -> Bytes:
    top, bottom = _edges(rows, colours.shape[0])
    left, right = _edges(columns, colours.shape[1])
    picture = Image.fromarray(np.ascontiguousarray(colours))
    size = (len(columns), len(rows))
    box = (left, top, right, bottom)
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, box))


def _edges(positions: Doubles, patches: int) -> tuple[float, float]:
    """The outer edges of the first and the last pixel, within the grid."""
    half = (positions[-1] - positions[0]) / (len(positions) - 1) / 2 if len(positions) > 1 else 0.5
    return max(positions[0] - half, 0.0), min(positions[-1] + half, float(patches))
