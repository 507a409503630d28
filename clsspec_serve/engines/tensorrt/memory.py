"""What plans take and leave: memory of a GPU, used again."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.engines.device import Device, OutOfMemory
from clsspec_serve.engines.pinned import pinned
from clsspec_serve.engines.recycling import Waiting


class Pool:
    """Memory of a GPU that is used again, since CUDA waits for all its work to allocate and free.

    What is given back waits for the next who asks for the same size; nobody may give back what
    work that is under way still uses. All of it goes with the last who has any use for it.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.pinned = pinned(device)
        self._waiting = Waiting(device.free)

    def take(self, size: int) -> Block:
        """Memory of so many bytes; raises `OutOfMemory`."""
        address = self._waiting.take(size)
        if address is None:
            try:
                address = self.device.allocate(size)
            except OutOfMemory:
                self.trim()
                address = self.device.allocate(size)
        return Block(self, address, size)

    def keep(self, array: NDArray[Any]) -> Held:
        """A copy of an array there; raises `EngineError`."""
        self.device.use()
        held = Held(self.take(array.nbytes), array.shape, array.dtype)
        self.device.upload(np.ascontiguousarray(array), held.block.address)
        return held

    def give(self, address: int, size: int) -> None:
        """Take memory back."""
        self._waiting.give(address, size)

    def trim(self) -> None:
        """Free what waits, for others: TensorRT allocates for itself."""
        self._waiting.drain()

    def __del__(self) -> None:
        self._waiting.end()


_POOLS: WeakValueDictionary[tuple[int, int], Pool] = WeakValueDictionary()
_FINDING = threading.Lock()


def pool_of(index: int) -> Pool:
    """The pool of a GPU, which all engines share that are on it; raises `EngineError`."""
    device = Device(index)
    with _FINDING:
        return _POOLS.setdefault((id(device.cuda), index), Pool(device))


class Block:
    """Some of a pool's memory, until nobody holds this any more."""

    def __init__(self, pool: Pool, address: int, size: int) -> None:
        self.pool, self.address, self.size = pool, address, size

    def __del__(self) -> None:
        self.pool.give(self.address, self.size)


class Held:
    """An array in a GPU's memory, of which it may fill only the beginning."""

    def __init__(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.block, self.dtype = block, dtype
        self._shape = shape

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array."""
        return self._shape

    def numpy(self) -> NDArray[Any]:
        """A copy in this machine's memory; raises `EngineError`."""
        pool = self.block.pool
        found = pool.pinned.array(self._shape, self.dtype)
        pool.device.use()
        pool.device.download(self.block.address, found)
        return found
