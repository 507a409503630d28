"""Views of one shape, put together for a forward pass."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from clsspec_serve.dense.views import Pixels

Shape = tuple[int, ...]
T = TypeVar("T")


class _Batch(Generic[T]):
    """Views that are already where the network takes them, and whose they are."""

    def __init__(self, memory: Pixels) -> None:
        self.memory = memory
        self.owners: list[T] = []


class Batches(Generic[T]):
    """Batches of at most `size` views, one for each shape.

    New memory for each batch would take more time than filling it, so that some is kept. `room`:
    gives it, for a shape.
    """

    def __init__(self, size: int, room: Callable[[Shape], Pixels]) -> None:
        self._size, self._room = size, room
        self._batches: dict[Shape, _Batch[T]] = {}
        self._spare: deque[Pixels] = deque(maxlen=2)

    def add(self, owner: T, view: Pixels) -> bool:
        """Whether the batch of this view's shape is full now."""
        if view.shape not in self._batches:
            self._batches[view.shape] = _Batch(self._memory(view.shape))
        batch = self._batches[view.shape]
        batch.memory[len(batch.owners)] = view
        batch.owners.append(owner)
        return len(batch.owners) == self._size

    def take(self, shape: Shape) -> tuple[list[T], Pixels]:
        """The owners, and their views `(size, ...)`, of which only the owners' are meant."""
        batch = self._batches.pop(shape)
        return batch.owners, batch.memory

    def give_back(self, memory: Pixels) -> None:
        """What was taken is not needed any more; any thread may say so."""
        self._spare.append(memory)

    def _memory(self, shape: Shape) -> Pixels:
        while self._spare:
            memory = self._spare.popleft()
            if memory.shape[1:] == shape:
                return memory
        return self._room((self._size, *shape))
