"""Which classes can win in which blocks of a picture.

In a block every value is a convex combination of the values at the block's corners (the samples
that a cell uses, the end pixels of a piece). A class that is below another one at all corners, in
all views, is below it at all pixels and cannot win. "Below" means by more than rounding, and what
`blocks` calls slack, can amount to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dense.blocks import Axis, Hull, cut_axes
from clsspec_serve.errors import EngineError, UsageError

FloatArray = NDArray[np.float32]
Indices = NDArray[np.intp]
View = tuple[FloatArray, FloatArray, FloatArray]
"""logits `(M, N, K)`, rows `(H, M)`, columns `(W, N)`."""

GROUP = 4
"""Side, in cells, of the groups that are looked at first, with all classes."""
CHUNK = 1 << 18
"""Values computed at a time: arrays of 1 MB, which stay in the processor's cache."""
LARGEST = 1e30
"""Largest logit that is accepted: sums of such do not overflow."""


@dataclass(frozen=True)
class Pairs:
    """Blocks, and the classes that may win there, ascending within each block.

    `row`, `column`, `count` `(blocks,)`: each block's place, and how many classes it has.
    `classes`: those of the first block, then those of the second, and so on.
    """

    row: Indices
    column: Indices
    count: Indices
    classes: Indices

    @property
    def starts(self) -> Indices:
        """Where each block's classes start."""
        return np.cumsum(self.count) - self.count

    def take(self, blocks: Indices) -> Pairs:
        """Some of the blocks, some of them more than once."""
        count = self.count[blocks]
        classes = self.classes[_ranges(self.starts[blocks], count)]
        return Pairs(self.row[blocks], self.column[blocks], count, classes)

    def first(self, blocks: int) -> Pairs:
        """The first so many blocks."""
        classes = self.classes[: self.count[:blocks].sum()]
        return Pairs(self.row[:blocks], self.column[:blocks], self.count[:blocks], classes)

    def parts(self, cost: Indices) -> Iterator[Pairs]:
        """Runs of blocks whose costs add up to about `CHUNK`; at least one block each."""
        total = np.cumsum(cost)
        cuts = np.searchsorted(total, np.arange(CHUNK, total[-1] if len(total) else 0, CHUNK))
        edges = np.unique([0, *cuts, len(total)])
        ends = np.concatenate([[0], np.cumsum(self.count)])
        for start, stop in pairwise(edges):
            blocks = slice(start, stop)
            classes = self.classes[ends[start] : ends[stop]]
            yield Pairs(self.row[blocks], self.column[blocks], self.count[blocks], classes)


class Candidates:
    """The views of one picture, cut into blocks."""

    def __init__(self, views: Sequence[View]) -> None:
        self.shape, self.classes = _common_shape(views)
        self.logits = [np.ascontiguousarray(logits, np.float32) for logits, _, _ in views]
        extremes = [float(bound) for each in self.logits for bound in (each.min(), each.max())]
        if not all(abs(extreme) <= LARGEST for extreme in extremes):
            raise EngineError(
                f"the segmentation head gave logits from {min(extremes)} to {max(extremes)}; "
                f"accepted are finite numbers up to {LARGEST:.0e}"
            )
        self.rows, self.columns = cut_axes(
            [rows for _, rows, _ in views], [columns for _, _, columns in views]
        )
        # At least as for logits around 1, so that a softmax, too, tells a loser from the winner.
        self._margin = max(1.0, *map(abs, extremes)) * _rounding(self.rows, self.columns)

    def contested(self, first: int, last: int, winners: NDArray[np.integer]) -> Iterator[Pairs]:
        """Go through the cells from row `first` to row `last`, down to the leaves.

        Yields leaves with several candidates. All other leaves' classes go to `winners` (leaves
        of these rows, leaves across).
        """
        groups, columns = self._groups(first, last), np.arange(self.columns.levels[0].count)
        edges = np.append(columns[::GROUP], len(columns))
        top = self.rows.levels[0].leaves[first]
        for part in groups.parts(groups.count * (GROUP * GROUP * self._corners(0))):
            cells = _inside(part, np.array([first, last]), edges)
            yield from self._descend(0, cells, winners, top)

    def values(self, view: int, pairs: Pairs, classes: Indices | None = None) -> FloatArray:
        """A view's values at the pixels of leaves `(LEAF, LEAF, n)`, of a class for each leaf.

        Without `classes` of all: `(LEAF, LEAF, n, K)`.
        """
        rows, columns = self._hulls(view, -1)
        samples = self._samples(view, rows, columns, pairs.row, pairs.column, classes)
        return _mix(samples, rows.weights[..., pairs.row], columns.weights[..., pairs.column])

    def _groups(self, first: int, last: int) -> Pairs:
        """Groups of cells in rows of cells from `first` to `last`, with all that may win there.

        The corners of a group are all the samples that it uses.
        """
        count = self.columns.levels[0].count
        groups = np.arange(0, count, GROUP)
        high = np.empty((len(self.logits), len(groups), self.classes), np.float32)
        low = np.empty_like(high)
        for view, logits in enumerate(self.logits):
            rows, columns = self._hulls(view, 0)
            band = logits[np.unique(rows.samples[:, first:last])]
            used = [np.unique(columns.samples[:, start : start + GROUP]) for start in groups]
            starts = np.cumsum([0, *map(len, used[:-1])])
            order = np.concatenate(used)
            high[view] = np.maximum.reduceat(band.max(axis=0)[order], starts)
            low[view] = np.minimum.reduceat(band.min(axis=0)[order], starts)
        rival = low.sum(axis=0).argmax(axis=1)
        bound = low[:, np.arange(len(groups)), rival, None] - np.float32(self._margin)
        may_win = (high >= bound).any(axis=0)
        return Pairs(
            np.zeros(len(groups), np.intp),
            np.arange(len(groups)),
            may_win.sum(axis=1),
            np.nonzero(may_win)[1],
        )

    def _descend(
        self, depth: int, pairs: Pairs, winners: NDArray[np.integer], top: int
    ) -> Iterator[Pairs]:
        pairs = self._prune(depth, pairs)
        rows, columns = self.rows.levels[depth], self.columns.levels[depth]
        settled = pairs.take(np.flatnonzero(pairs.count == 1))
        block, row, column = _product(settled, rows.leaves, columns.leaves)
        winners[row - top, column] = settled.classes[block]
        pairs = pairs.take(np.flatnonzero(pairs.count > 1))
        if depth == len(self.rows.levels) - 1:
            yield pairs
            return
        children = np.diff(rows.children)[pairs.row] * np.diff(columns.children)[pairs.column]
        for part in pairs.parts(pairs.count * children * self._corners(depth + 1)):
            finer = _inside(part, rows.children, columns.children)
            yield from self._descend(depth + 1, finer, winners, top)

    def _prune(self, depth: int, pairs: Pairs) -> Pairs:
        """Leave out the classes that are below the block's best one at all corners."""
        block = np.repeat(np.arange(len(pairs.count)), pairs.count)
        corners = np.concatenate(
            [self._at_corners(depth, view, pairs, block) for view in range(len(self.logits))]
        )
        total = corners.sum(axis=0)
        best = np.flatnonzero(total == np.maximum.reduceat(total, pairs.starts)[block])
        rival = best[np.unique(block[best], return_index=True)[1]]
        corners -= corners[:, rival][:, block]
        kept = corners.max(axis=0) >= -self._margin
        count = np.add.reduceat(kept, pairs.starts, dtype=np.intp)
        return Pairs(pairs.row, pairs.column, count, pairs.classes[kept])

    def _at_corners(self, depth: int, view: int, pairs: Pairs, block: Indices) -> FloatArray:
        """`(corners, pairs)`: a view's values at the corners of each pair's block."""
        rows, columns = self._hulls(view, depth)
        row, column = pairs.row[block], pairs.column[block]
        corners = self._samples(view, rows, columns, row, column, pairs.classes)
        if depth:
            ends = [0, -1]
            corners = _mix(
                corners, rows.weights[ends][..., row], columns.weights[ends][..., column]
            )
        return corners.reshape(-1, len(block))

    def _samples(
        self,
        view: int,
        rows: Hull,
        columns: Hull,
        row: Indices,
        column: Indices,
        classes: Indices | None,
    ) -> FloatArray:
        """`(U, V, n)` or, without `classes`, `(U, V, n, K)`: the samples that blocks use."""
        logits = self.logits[view]
        place = rows.samples[:, None, row] * logits.shape[1] + columns.samples[None, :, column]
        if classes is None:
            return logits.reshape(-1, self.classes)[place]
        place *= self.classes
        place += classes
        return logits.reshape(-1).take(place)

    def _hulls(self, view: int, depth: int) -> tuple[Hull, Hull]:
        return self.rows.levels[depth].hulls[view], self.columns.levels[depth].hulls[view]

    def _corners(self, depth: int) -> int:
        """How many values of one class a block's corners take to compute, all views together."""
        hulls = [self._hulls(view, depth) for view in range(len(self.logits))]
        return sum(len(rows.samples) * len(columns.samples) for rows, columns in hulls)


def _mix(samples: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Samples `(U, V, n)` by weights `(a, U, n)`, `(b, V, n)`: `(a, b, n)`; or `(a, b, n, K)`.

    Sums of products in the order of the samples, rows first; a product with weight 0 changes none.
    So a value depends on nothing but its own samples and weights.
    """
    if samples.ndim > rows.ndim:
        rows, columns = rows[..., None], columns[..., None]
    mixed = rows[:, 0, None] * samples[0]
    for index in range(1, len(samples)):
        mixed += rows[:, index, None] * samples[index]
    values = mixed[:, None, 0] * columns[None, :, 0]
    for index in range(1, mixed.shape[1]):
        values += mixed[:, None, index] * columns[None, :, index]
    return values


def _inside(pairs: Pairs, row_edges: Indices, column_edges: Indices) -> Pairs:
    """The finer blocks inside of blocks, each with the candidates of the one it lies in."""
    block, row, column = _product(pairs, row_edges, column_edges)
    finer = pairs.take(block)
    return Pairs(row, column, finer.count, finer.classes)


def _product(
    pairs: Pairs, row_edges: Indices, column_edges: Indices
) -> tuple[Indices, Indices, Indices]:
    """All (block, row, column) with edges[b] <= place < edges[b + 1] on both axes."""
    heights, widths = np.diff(row_edges)[pairs.row], np.diff(column_edges)[pairs.column]
    block = np.repeat(np.arange(len(heights)), heights * widths)
    place = _ranges(np.zeros_like(heights), heights * widths)
    row, column = np.divmod(place, widths[block])
    row += row_edges[pairs.row][block]
    column += column_edges[pairs.column][block]
    return block, row, column


def _ranges(starts: Indices, counts: Indices) -> Indices:
    """`arange(start, start + count)` of all of them, one after the other."""
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(starts - before, counts)


def _rounding(rows: Axis, columns: Axis) -> float:
    """How far below another a class must be at the corners, for logits up to 1 in absolute value.

    A value of U and V samples is computed to (U + V + 2) half units in the last place; four of
    them are compared, two at a corner and two at a pixel. This is more than twice that.
    """
    taps = sum(max(len(hull.samples) for hull in axis.levels[-1].hulls) for axis in (rows, columns))
    slack = rows.slack + columns.slack + rows.slack * columns.slack
    return (4 * taps + 16) * float(np.finfo(np.float32).eps) + 2 * slack


def _common_shape(views: Sequence[View]) -> tuple[tuple[int, int], int]:
    """(H, W) and K of all views; raises UsageError where they do not fit together."""
    found = set()
    for logits, rows, columns in views:
        if (rows.shape[1], columns.shape[1]) != logits.shape[:2]:
            raise UsageError(
                f"rows {rows.shape} and columns {columns.shape} do not fit logits {logits.shape}"
            )
        for matrix in (rows, columns):
            if not (matrix.min(initial=0) >= 0 and np.allclose(matrix.sum(axis=1), 1, atol=1e-3)):
                raise UsageError("a matrix has weights below 0, or rows that do not add up to 1")
        found.add((len(rows), len(columns), logits.shape[2]))
    if len(found) != 1 or 0 in next(iter(found)):
        raise UsageError(
            f"views have (H, W, K) {sorted(found)}; accepted is one for all, without a 0"
        )
    height, width, classes = found.pop()
    return (height, width), classes
