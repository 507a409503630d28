"""Maps at the picture's own resolution from low-resolution logits, exactly and in bounded memory.

The value of class k at pixel (y, x) is the sum over m, n of
`rows[y, m] * columns[x, n] * logits[m, n, k]`, with matrices as `axes` builds them. All values of
150 classes at 12 megapixels are 7 GB; they are never all computed: `candidates` says where one
class only can win, and the others are computed where they may.

A value is computed by the same operations in the same order, whichever classes and pixels are
computed with it, and a class is left out only where it is below another one by more than rounding.
So the answer is the very one of computing everything in this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dense.blocks import LEAF
from clsspec_serve.dense.candidates import GROUP, Candidates, Pairs, View
from clsspec_serve.errors import EngineError, UsageError

FloatArray = NDArray[np.float32]
ClassMap = NDArray[np.uint8 | np.uint16]
Winners = Iterator[tuple[Pairs, ClassMap]]
"""Leaves, and the classes of their pixels `(LEAF, LEAF, leaves)`."""


def argmax_map(logits: FloatArray, rows: FloatArray, columns: FloatArray) -> ClassMap:
    """The class with the largest value at every pixel, the lowest on ties: `(H, W)`.

    `uint8` for up to 255 classes, else `uint16`; the type's largest number is no class.
    Raises `EngineError` for logits that are not finite, `UsageError` for shapes that do not fit.
    """
    return _settle(Candidates([(logits, rows, columns)]), _by_value)


def argmax_of_mean_softmax(views: Sequence[View]) -> ClassMap:
    """The class with the largest mean, over views of one picture, of its softmax at every pixel.

    Views, such as a picture and its mirror image, have the same H, W and K. Type, ties and errors
    as of `argmax_map`.
    """
    return _settle(Candidates(views), _by_mean_softmax)


def resize_map(values: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """One channel `(M, N)` at full resolution, `(H, W) float32`.

    Raises `EngineError` for values that are not finite, as they would spread to all pixels.
    """
    if not np.isfinite(values).all():
        raise EngineError("a head gave values that are not finite numbers")
    return rows @ (values @ columns.T)


def _settle(candidates: Candidates, decide: Callable[[Candidates, Pairs], Winners]) -> ClassMap:
    """The map, where `decide` answers for the leaves in which several classes are left."""
    answer: ClassMap = np.empty(candidates.shape, class_dtype(candidates.classes))
    cells, leaves = candidates.rows.levels[0], candidates.rows.levels[-1]
    across = candidates.columns.levels[-1]
    for first in range(0, cells.count, GROUP):
        last = min(first + GROUP, cells.count)
        top, bottom = cells.bounds[[first, last]]
        above, below = cells.leaves[[first, last]]
        winners = np.zeros((below - above, across.count), answer.dtype)
        contested: list[tuple[Pairs, ClassMap]] = []
        for pairs in candidates.contested(first, last, winners):
            contested.extend(decide(candidates, pairs))
        band = np.repeat(np.arange(below - above), np.diff(leaves.bounds[above : below + 1]))
        answer[top:bottom] = np.repeat(winners, np.diff(across.bounds), axis=1)[band]
        for pairs, classes in contested:
            answer[leaves.pixels[:, None, pairs.row], across.pixels[None, :, pairs.column]] = (
                classes
            )
    return answer


def _by_value(candidates: Candidates, pairs: Pairs) -> Winners:
    """The largest value in each leaf's pixels: candidate after candidate, for many leaves."""
    pairs = pairs.take(np.argsort(-pairs.count, kind="stable"))
    for part in pairs.parts(np.full(len(pairs.count), LEAF * LEAF)):
        of_rank = part.classes[part.starts]
        best = candidates.values(0, part, of_rank)
        winner = np.empty(best.shape, class_dtype(candidates.classes))
        winner[:] = of_rank
        for rank in range(1, part.count[0]):
            # The leaves that have so many candidates come first.
            some = part.first(int(np.searchsorted(-part.count, -rank)))
            of_rank = some.classes[some.starts + rank]
            value = candidates.values(0, some, of_rank)
            leader = best[..., : len(of_rank)]
            better = value > leader
            np.copyto(leader, value, where=better)
            np.copyto(winner[..., : len(of_rank)], of_rank.astype(winner.dtype), where=better)
        yield part, winner


def _by_mean_softmax(candidates: Candidates, pairs: Pairs) -> Winners:
    """The largest mean softmax in each leaf's pixels: of all classes, as its sums are over all."""
    cost = np.full(len(pairs.count), LEAF * LEAF * candidates.classes)
    for part in pairs.parts(cost):
        total = np.zeros(1, np.float32)
        for view in range(len(candidates.logits)):
            value = candidates.values(view, part)
            value -= value.max(axis=-1, keepdims=True)
            np.exp(value, out=value)
            value /= value.sum(axis=-1, keepdims=True)
            total = total + value
        yield part, total.argmax(axis=-1).astype(class_dtype(candidates.classes))


def class_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """What holds the ids of so many classes and one more for none; raises `UsageError`."""
    for dtype in (np.uint8, np.uint16):
        if classes <= np.iinfo(dtype).max:
            return dtype
    raise UsageError(f"{classes} classes; accepted are up to {np.iinfo(np.uint16).max}")
