"""Memory of this machine that stays where it is, from and to which GPUs copy at full speed."""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.engines.device import Device
from clsspec_serve.errors import EngineError

SMALLEST = 1 << 16
"""Bytes from which on the kind of memory decides on the time of a copy."""
LIMIT = 1 << 28
"""Bytes of it that a process has at most: the system cannot use them for anything else."""


class Pinned:
    """Page-locked arrays, whose memory is used again since to lock it takes longer than to copy.

    An array's memory waits for the next one when nobody holds the array any more, nor a part of
    it. Small arrays, and all beyond `LIMIT`, are of ordinary memory, which is only slower.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        # `deque`s, as garbage is collected at any time: a lock could be this thread's own.
        self._waiting: dict[int, deque[int]] = {}
        self._locked = 0
        self._locking = threading.Lock()
        self._ended = False

    def array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array to be filled."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        block = self._take(1 << (size - 1).bit_length()) if size >= SMALLEST else None
        if block is None:
            return np.empty(shape, dtype)
        return np.asarray(block)[:size].view(dtype).reshape(shape)

    def give(self, address: int, size: int) -> None:
        """Take memory back."""
        self._waiting.setdefault(size, deque()).append(address)
        if self._ended:  # garbage that was collected in this order
            self._unlock()

    def _take(self, size: int) -> _Block | None:
        try:
            return _Block(self, self._waiting[size].pop(), size)
        except (KeyError, IndexError):
            pass
        with self._locking:
            if self._locked + size > LIMIT:
                self._unlock()
            if self._locked + size > LIMIT:
                return None
            try:
                self._device.use()
                address = self._device.lock(size)
            except EngineError:  # the system has none to give
                return None
            self._locked += size
            return _Block(self, address, size)

    def _unlock(self) -> None:
        for size, waiting in [*self._waiting.items()]:
            while waiting:
                self._device.unlock(waiting.pop())
                self._locked -= size

    def __del__(self) -> None:
        self._ended = True
        self._unlock()


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
