"""Memory of this machine that stays where it is, from and to which GPUs copy at full speed."""

from __future__ import annotations

import math
import threading
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.engines.device import Device
from clsspec_serve.engines.recycling import Waiting
from clsspec_serve.errors import EngineError

SMALLEST = 1 << 16
"""Bytes; CUDA copies less than that by way of memory of its own, wherever it lies."""
LIMIT = 1 << 28
"""Bytes of it that a process has at most: the system cannot use them for anything else."""


class Pinned:
    """Page-locked arrays.

    An array's memory waits for the next one when nobody holds the array any more, nor a part of
    it. Small arrays, and all beyond `LIMIT`, are of ordinary memory, which is only slower.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._waiting = Waiting(device.free_pinned)
        self._allocated = 0
        self._allocating = threading.Lock()

    def array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of this shape and dtype to be filled; what is in it has no meaning."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        block = self._take(1 << (size - 1).bit_length()) if size >= SMALLEST else None
        if block is None:
            return np.empty(shape, dtype)
        return np.asarray(block)[:size].view(dtype).reshape(shape)

    def give(self, address: int, size: int) -> None:
        """Take memory back."""
        self._waiting.give(address, size)

    def _take(self, size: int) -> _Block | None:
        address = self._waiting.take(size)
        if address is None:
            with self._allocating:
                address = self._allocate(size)
        return None if address is None else _Block(self, address, size)

    def _allocate(self, size: int) -> int | None:
        if self._allocated + size > LIMIT:
            self._allocated -= self._waiting.drain()
        if self._allocated + size > LIMIT:
            return None
        try:
            self._device.use()
            address = self._device.allocate_pinned(size)
        except EngineError:  # the system has none to give
            return None
        self._allocated += size
        return address

    def __del__(self) -> None:
        self._waiting.end()


_POOLS: WeakValueDictionary[int, Pinned] = WeakValueDictionary()
_FINDING = threading.Lock()


def pinned(device: Device) -> Pinned:
    """That of the process, which all GPUs share."""
    with _FINDING:
        return _POOLS.setdefault(id(device.cuda), Pinned(device))


class _Block:
    """Some of it, for as long as an array is on it."""

    def __init__(self, pool: Pinned, address: int, size: int) -> None:
        self._pool, self._address, self._size = pool, address, size
        self.__array_interface__ = {
            "version": 3,
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
        }

    def __del__(self) -> None:
        self._pool.give(self._address, self._size)
