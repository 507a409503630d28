"""How alike the patches are to one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError


def similarity(patches: NDArray[Any], row: int, col: int) -> NDArray[np.float32]:
    """The cosine of every patch `(h, w, D)` with the one at (row, col): `(h, w)` float32 in -1..1.

    0 where either has no length. Raises UsageError outside of the grid.
    """
    grid = patches.shape[:2]
    if not (0 <= row < grid[0] and 0 <= col < grid[1]):
        raise UsageError(f"patch ({row}, {col}) is outside of the grid {grid}")
    point = patches[row, col].astype(np.float64)
    length = np.linalg.norm(point)
    out = np.empty(grid, np.float32)
    # One row of patches in float64 at a time.
    for index, each in enumerate(patches):
        line = each.astype(np.float64)
        lengths = np.linalg.norm(line, axis=1) * length
        # What float64 leaves beyond -1 and 1 is lost in float32.
        out[index] = line @ point / np.where(lengths > 0, lengths, 1)
    return out
