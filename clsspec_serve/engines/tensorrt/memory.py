"""A GPU's memory, streams and copies, by way of CUDA's runtime."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.engines.tensorrt.libraries import cuda_runtime
from clsspec_serve.errors import EngineError, one_line


class OutOfMemory(EngineError):
    """The GPU has no room for what was asked for."""


class Device:
    """One GPU, of an index that CUDA sees. All raise `EngineError` with CUDA's own words."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.cuda = cuda_runtime()

    def use(self) -> None:
        """Make it the one that this thread's calls are about, TensorRT's included."""
        self._ask(self.cuda.cudaSetDevice(self.index))

    @property
    def architecture(self) -> tuple[int, int]:
        """The compute capability: (9, 0) is an H100's."""
        names = self.cuda.cudaDeviceAttr
        major, minor = (
            self._ask(self.cuda.cudaDeviceGetAttribute(name, self.index))
            for name in (
                names.cudaDevAttrComputeCapabilityMajor,
                names.cudaDevAttrComputeCapabilityMinor,
            )
        )
        return major, minor

    def stream(self) -> int:
        """A new stream, which waits for no other, the default one included."""
        flags = self.cuda.cudaStreamNonBlocking
        return int(self._ask(self.cuda.cudaStreamCreateWithFlags(flags)))

    def wait(self, stream: int) -> None:
        """Return when all that was put on the stream is done."""
        self._ask(self.cuda.cudaStreamSynchronize(stream))

    def end(self, stream: int) -> None:
        """Give a stream back; never raises, as it is for `__del__`."""
        self.cuda.cudaStreamDestroy(stream)

    def allocate(self, size: int) -> int:
        """The address of so many bytes, a multiple of 256; raises `OutOfMemory`."""
        return int(self._ask(self.cuda.cudaMalloc(size)))

    def free(self, address: int) -> None:
        """Give memory back; never raises, as it is for `__del__`."""
        self.cuda.cudaFree(address)

    def upload(self, array: NDArray[Any], address: int, stream: int) -> None:
        """Copy a C-contiguous array there, when its turn on the stream comes."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._ask(self.cuda.cudaMemcpyAsync(address, array.ctypes.data, array.nbytes, kind, stream))

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fill a C-contiguous array from there, now."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._ask(self.cuda.cudaMemcpy(array.ctypes.data, address, array.nbytes, kind))

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if int(status) == 0:
            return values[0] if values else None
        text = self.cuda.cudaGetErrorString(status)[1].decode(errors="replace")
        full = int(status) == int(self.cuda.cudaError_t.cudaErrorMemoryAllocation)
        kind = OutOfMemory if full else EngineError
        raise kind(f"tensorrt failed: CUDA: {one_line(RuntimeError(text))}")


class Pool:
    """Memory of a GPU that is used again, since CUDA waits for all its work to allocate and free.

    What is given back waits for the next who asks for the same size; nobody may give back what
    work that is under way still uses. All of it goes with the last who has any use for it.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        # `deque`s, as garbage is collected at any time: a lock could be this thread's own.
        self._waiting: dict[int, deque[int]] = {}
        self._ended = False

    def take(self, size: int) -> Block:
        """Memory of so many bytes; raises `OutOfMemory`."""
        try:
            return Block(self, self._waiting[size].pop(), size)
        except (KeyError, IndexError):
            pass
        try:
            return Block(self, self.device.allocate(size), size)
        except OutOfMemory:
            self.trim()
            return Block(self, self.device.allocate(size), size)

    def give(self, address: int, size: int) -> None:
        """Take memory back."""
        self._waiting.setdefault(size, deque()).append(address)
        if self._ended:  # garbage that was collected in this order
            self.trim()

    def trim(self) -> None:
        """Free what waits, for others: TensorRT allocates for itself."""
        for waiting in [*self._waiting.values()]:
            while waiting:
                self.device.free(waiting.pop())

    def __del__(self) -> None:
        self._ended = True
        self.trim()


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
        found = np.empty(self._shape, self.dtype)
        device = self.block.pool.device
        device.use()
        device.download(self.block.address, found)
        return found
