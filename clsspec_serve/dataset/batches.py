"""Views of one shape, put together for a forward pass."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from clsspec_serve.dense.views import Pixels

Shape = tuple[int, ...]
T = TypeVar("T")


class _Batch(Generic[T]):
    """Views that are already where the network takes them, and whose they are."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.owners: list[T] = []


class Batches(Generic[T]):
    """Batches of at most `size` views, one for each shape.

    New memory for each batch would take more time than filling it, so that of the last one is kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._batches: dict[Shape, _Batch[T]] = {}
        self._spare: Pixels | None = None

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, owner: T, view: Pixels) -> bool:
        """Whether the batch of this view's shape is full now."""
        if view.shape not in self._batches:
            self._batches[view.shape] = _Batch(self._memory(view.shape))
        batch = self._batches[view.shape]
        batch.pixels[len(batch.owners)] = view
        batch.owners.append(owner)
        return len(batch.owners) == self._size

    def take(self, shape: Shape) -> tuple[list[T], Pixels]:
        """The owners, and their views `(N, ...)`, which the next batch may overwrite."""
        batch = self._batches.pop(shape)
        self._spare = batch.pixels
        return batch.owners, batch.pixels[: len(batch.owners)]

    def _memory(self, shape: Shape) -> Pixels:
        spare, self._spare = self._spare, None
        if spare is not None and spare.shape[1:] == shape:
            return spare
        return np.empty((self._size, *shape), np.uint8)
