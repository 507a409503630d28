"""Position maps for any grid, computed outside the graph by the source model's own rule."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.manifest import LearnedPosition, RotaryPosition

Grid = tuple[int, int]
FloatArray = NDArray[np.float32]


def position_map(
    position: LearnedPosition | RotaryPosition, table: FloatArray, grid: Grid
) -> FloatArray:
    """The graph's `position` input for a grid of (h, w) patches: `(h, w, C)` float32.

    `table` is what the bundle stores: `(h0, w0, D)` for a learned map, `(head_dim / 4,)` periods
    for a rotary one.
    """
    if isinstance(position, RotaryPosition):
        return rotary_map(table, grid)
    return learned_map(position, table, grid)


def learned_map(position: LearnedPosition, table: FloatArray, grid: Grid) -> FloatArray:
    """Resize a learned map `(h0, w0, D)` to `(h, w, D)`; at the native grid it is returned as is.

    Same result as `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`, whose
    two passes over the axes are two matrix products here.
    """
    if grid == position.grid:
        return table
    rows, columns = (
        _bicubic(old, new, (new + position.offset) / old, position.antialias)
        for old, new in zip(position.grid, grid, strict=True)
    )
    stretched = np.tensordot(columns, table, axes=(1, 1))  # (w, h0, D)
    return np.ascontiguousarray(np.tensordot(rows, stretched, axes=(1, 1)), dtype=np.float32)


def rotary_map(periods: FloatArray, grid: Grid) -> FloatArray:
    """DINOv3's rotary table `(h, w, 2 * head_dim)`.

    Patch centres run over [-1, 1] along each axis; the angle at x is 2πx / period.
    """
    axes = (2 * (np.arange(n, dtype=np.float32) + 0.5) / np.float32(n) - 1 for n in grid)
    y, x = np.meshgrid(*axes, indexing="ij")
    turn = np.float32(2 * np.pi)
    angles = np.concatenate([turn * axis[..., None] / periods for axis in (y, x)], axis=-1)
    angles = np.tile(angles, 2)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def _bicubic(old: int, new: int, factor: float, antialias: bool) -> FloatArray:
    """The `(new, old)` matrix of a bicubic resize by `factor`, edges clamped.

    Keys' cubic kernel with a = -0.75; with antialiasing a = -0.5, widened when shrinking and
    renormalised at the edges, as in PyTorch.
    """
    step = 1.0 / factor
    centres = (np.arange(new) + 0.5) * step - 0.5
    if antialias:
        width = max(step, 1.0)
        distance = (np.arange(old)[None, :] - centres[:, None]) / width
        weights = _keys(distance, -0.5)
        return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights = np.zeros((new, old))
    first = np.floor(centres).astype(int) - 1
    for tap in range(4):
        source = first + tap
        values = _keys(centres - source, -0.75)
        np.add.at(weights, (np.arange(new), np.clip(source, 0, old - 1)), values)
    return weights.astype(np.float32)


def _keys(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Keys (1981), *Cubic convolution interpolation for digital image processing*."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
