"""Labels of a picture's pixels brought to the cells in which a dense head is trained."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.geometry import Geometry

Label = TypeVar("Label", bound=np.generic)


def at_cells(
    labels: NDArray[Label], geometry: Geometry, upsample: int, void: float
) -> NDArray[Label]:
    """The label `(u*h, u*w)` at the centre of each cell of the network's input.

    `labels`: `(H, W)`, of the picture's own pixels. `upsample`: u, cells per patch and axis. The
    label is that of the pixel in which the centre lies (nearest neighbour, so that ids stay ids);
    `void` in the padding and where the crop reaches over the picture's edges.
    """
    rows, columns = (_pixels(geometry, axis, upsample) for axis in (0, 1))
    found: NDArray[Label] = labels[rows[:, None], columns]
    found[rows < 0] = void
    found[:, columns < 0] = void
    return found


def _pixels(geometry: Geometry, axis: int, upsample: int) -> NDArray[np.intp]:
    """For each cell along an axis the picture's pixel below its centre; -1 where there is none.

    In whole numbers, 2u times as large as pixels, so that a centre on an edge is decided exactly.
    """
    scale = 2 * upsample
    centres = (2 * np.arange(geometry.grid[axis] * upsample) + 1) * geometry.patch
    kept = centres - scale * geometry.padding[axis]
    inside = (kept >= 0) & (kept < scale * geometry.crop[axis + 2])
    place = (kept + scale * geometry.crop[axis]) * geometry.image[axis]
    pixels = place // (scale * geometry.resized[axis])
    inside &= (pixels >= 0) & (pixels < geometry.image[axis])
    return np.where(inside, pixels, -1)
