"""A picture's axis cut into blocks inside of which an interpolation is easy to bound.

Along an axis, a matrix `(pixels, samples)` says how each pixel mixes samples. Blocks come in
levels, each cut finer than the one before:

- cells: pixels with the same first sample. What they mix lies between the samples that they use.
- pieces: pixels whose weights change linearly. What they mix lies between the two pixels at the
  piece's ends. The last level's are short; they are the leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Indices = NDArray[np.intp]

LEAF = 8
"""Pixels of a leaf at most."""
FINER = 4
"""A piece is at most so many times as long as the pieces of the next level."""
BEND = 1e-5
"""Second difference of weights from which a piece ends; `Axis.slack` measures what is left."""


@dataclass(frozen=True)
class Hull:
    """The samples that every block uses by one matrix, and how the `pixels` of its level mix them.

    `samples` `(U, blocks)`: ascending, then the first one again where a block uses fewer.
    `weights` `(pixels, U, blocks)`: 0 where a sample is repeated.
    """

    samples: Indices
    weights: FloatArray


@dataclass(frozen=True)
class Level:
    """Blocks of one fineness: block b is the pixels from `bounds[b]` to `bounds[b + 1]`.

    `children[b]` to `children[b + 1]` are its blocks on the next level, `leaves[b]` to
    `leaves[b + 1]` those on the last one. `pixels` `(n, blocks)`: none of a cell, the first and
    the last one of a piece, all of a leaf (its last one repeated up to `LEAF`). `hulls`: one for
    each matrix.
    """

    bounds: Indices
    children: Indices
    leaves: Indices
    pixels: Indices
    hulls: tuple[Hull, ...]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.bounds) - 1


@dataclass(frozen=True)
class Axis:
    """One axis: `levels` from cells to leaves, and `slack`.

    `slack`: by how much, in the sum of absolute weights, a pixel's weights differ at most from
    those on the line between the ends of its piece.
    """

    levels: tuple[Level, ...]
    slack: float


def cut_axes(rows: Sequence[FloatArray], columns: Sequence[FloatArray]) -> tuple[Axis, Axis]:
    """Cut both axes, into as many levels, so that the blocks suit all of their matrices.

    `rows` `(H, samples)`, `columns` `(W, samples)`: one of each for every view of the picture.
    """
    cuts = []
    for matrices in (rows, columns):
        first = np.stack([(matrix != 0).argmax(axis=1) for matrix in matrices])
        starts = np.flatnonzero((first[:, 1:] != first[:, :-1]).any(axis=0)) + 1
        cells = np.concatenate([[0], starts, [len(matrices[0])]])
        cuts.append((matrices, cells, _straight(np.concatenate(matrices, axis=1), cells)))
    longest = max(int(np.diff(straight).max()) for _, _, straight in cuts)
    sides = [LEAF]
    while sides[-1] * FINER < longest:
        sides.append(sides[-1] * FINER)
    one, other = (_axis(*cut, sides[::-1]) for cut in cuts)
    return one, other


def _axis(
    matrices: Sequence[FloatArray], cells: Indices, straight: Indices, sides: Sequence[int]
) -> Axis:
    bounds = [cells]
    for side in sides:
        straight = _shorter(straight, side)
        bounds.append(straight)
    levels = []
    for depth, edges in enumerate(bounds):
        leaf = depth == len(sides)
        pixels = _pixels(edges, LEAF if leaf else 2 if depth else 0)
        levels.append(
            Level(
                edges,
                children=np.searchsorted(edges if leaf else bounds[depth + 1], edges),
                leaves=np.searchsorted(straight, edges),
                pixels=pixels,
                hulls=tuple(_hull(matrix, edges, pixels) for matrix in matrices),
            )
        )
    slack = max(_slack(matrix, edges) for matrix in matrices for edges in bounds[1:])
    return Axis(tuple(levels), slack)


def _straight(matrix: FloatArray, bounds: Indices) -> Indices:
    """`bounds`, and more where the weights between two of them bend."""
    bend = np.zeros(len(matrix), bool)
    bend[1:-1] = np.abs(matrix[:-2] - 2 * matrix[1:-1] + matrix[2:]).max(axis=1, initial=0) > BEND
    edges, fixed = [0], set(bounds.tolist())
    for pixel in range(1, len(matrix)):
        inside = pixel - 1 > edges[-1] and bend[pixel - 1]
        if inside or pixel in fixed:
            edges.append(pixel)
    return np.array([*edges, len(matrix)])


def _shorter(bounds: Indices, side: int) -> Indices:
    """`bounds`, and more that cut blocks longer than `side` into equal parts."""
    parts = [
        np.linspace(start, stop, -(-(stop - start) // side), endpoint=False).astype(np.intp)
        for start, stop in pairwise(bounds)
    ]
    return np.concatenate([*parts, bounds[-1:]])


def _pixels(bounds: Indices, count: int) -> Indices:
    """`(count, blocks)`: each block's first pixels, no further than its last, and its last."""
    pixels = np.minimum(bounds[:-1] + np.arange(count)[:, None], bounds[1:] - 1)
    pixels[-1:] = bounds[1:] - 1
    return pixels


def _hull(matrix: FloatArray, bounds: Indices, pixels: Indices) -> Hull:
    used = np.logical_or.reduceat(matrix != 0, bounds[:-1], axis=0)
    block, sample = np.nonzero(used)
    count = used.sum(axis=1)
    rank = np.arange(len(block)) - np.repeat(np.cumsum(count) - count, count)
    samples = np.empty((count.max(), len(count)), np.intp)
    samples[:] = sample[rank == 0]
    samples[rank, block] = sample
    weights = matrix[pixels[:, None], samples]
    weights *= np.arange(len(samples))[:, None] < count
    return Hull(samples, np.ascontiguousarray(weights))


def _slack(matrix: FloatArray, pieces: Indices) -> float:
    """The largest distance of a pixel's weights from the line between the ends of its piece."""
    start = np.repeat(pieces[:-1], np.diff(pieces))
    last = np.repeat(pieces[1:], np.diff(pieces)) - 1
    share = ((np.arange(len(matrix)) - start) / np.maximum(last - start, 1))[:, None]
    line = matrix[start] * (1 - share) + matrix[last] * share
    return float(np.abs(matrix - line).sum(axis=1).max())
