"""CUDA's runtime without a GPU: memory that only its own functions reach, and streams that wait.

Work on a stream is done when somebody waits for the stream, and not before. What a GPU would let
pass and pay for later is a misuse here, and kept: memory that is freed twice, or while a stream
still uses it, read before it is there, or used by two streams at once.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

POISON = 0xCD


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorLaunchFailure = 719


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaDeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


@dataclass
class Memory:
    """What was allocated."""

    device: int
    bytes: NDArray[np.uint8]


@dataclass
class Stream:
    """What is to be done, and which memory that reads and writes."""

    device: int
    flags: int
    work: list[Callable[[], None]] = field(default_factory=list)
    reads: set[int] = field(default_factory=set)
    writes: set[int] = field(default_factory=set)


class cudaStream_t:
    """As of the bindings: an object that is a number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


class CudaRuntime:
    """In the place of the module `cuda.bindings.runtime`.

    `log`: what crossed, and what was allocated, freed and waited for. `capacity`: bytes of each
    GPU. `fails`: functions that fail, by name, with a status.
    """

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamNonBlocking = 1

    def __init__(self, architectures: list[tuple[int, int]]) -> None:
        self.architectures = architectures
        self.log: list[str] = []
        self.misuses: list[str] = []
        self.memory: dict[int, Memory] = {}
        self.streams: dict[int, Stream] = {}
        self.capacity = 1 << 40
        self.fails: dict[str, cudaError_t] = {}
        self._next = 0x10000
        self._lock = threading.RLock()
        self._thread = threading.local()

    @property
    def device(self) -> int:
        """The one that this thread uses."""
        return getattr(self._thread, "device", 0)

    def misuse(self, what: str) -> cudaError_t:
        """Keep what nobody may do."""
        self.misuses.append(what)
        return cudaError_t.cudaErrorInvalidValue

    def enqueue(
        self, number: int, work: Callable[[], None], *, reads: Iterable[int], writes: Iterable[int]
    ) -> None:
        """Put work on a stream."""
        with self._lock:
            stream, read, written = self.streams[number], {*reads}, {*writes}
            for other in self.streams.values():
                if other is not stream and (
                    written & (other.reads | other.writes) or read & other.writes
                ):
                    self.misuse("two streams use the same memory at once")
            if any(self.memory[address].device != stream.device for address in read | written):
                self.misuse("a stream uses the memory of another GPU")
            stream.reads |= read
            stream.writes |= written
            stream.work.append(work)

    def used(self, address: int) -> bool:
        """Whether work on any stream is still to read it or to write it."""
        return any(address in each.reads | each.writes for each in self.streams.values())

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """The memory from an address on, as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self.memory[address].bytes
        if size > memory.size:
            self.misuse(f"{size} bytes at an address that has {memory.size}")
        return memory[:size].view(dtype).reshape(shape)

    def cudaSetDevice(self, device: int) -> tuple[cudaError_t]:
        if not 0 <= device < len(self.architectures):
            return (cudaError_t.cudaErrorInvalidDevice,)
        self._thread.device = device
        return (cudaError_t.cudaSuccess,)

    def cudaDeviceGetAttribute(self, name: Any, device: int) -> tuple[cudaError_t, int]:
        major, minor = self.architectures[device]
        return cudaError_t.cudaSuccess, major if name == 75 else minor

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return cudaError_t.cudaSuccess, f"error {int(error)}\nof the double".encode()

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:
        with self._lock:
            there = sum(m.bytes.size for m in self.memory.values() if m.device == self.device)
            if "cudaMalloc" in self.fails or there + size > self.capacity:
                return cudaError_t.cudaErrorMemoryAllocation, None
            address = self._next
            self._next += -(-size // 256) * 256 + 256
            self.memory[address] = Memory(self.device, np.full(size, POISON, np.uint8))
            self.log.append(f"malloc {size}")
            return cudaError_t.cudaSuccess, address

    def cudaFree(self, address: int) -> tuple[cudaError_t]:
        with self._lock:
            if address not in self.memory:
                return (self.misuse("memory that is not there was freed"),)
            if self.used(address):
                return (self.misuse("memory was freed that a stream still uses"),)
            self.log.append(f"free {self.memory.pop(address).bytes.size}")
            return (cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: Any, stream: Any
    ) -> tuple[cudaError_t]:
        if kind != cudaMemcpyKind.cudaMemcpyHostToDevice or target not in self.memory:
            return (self.misuse("no copy to the GPU"),)
        if int(stream) not in self.streams:
            return (cudaError_t.cudaErrorInvalidResourceHandle,)
        if size > self.memory[target].bytes.size:
            return (self.misuse("more was copied than there is room for"),)
        content = np.frombuffer(ctypes.string_at(source, size), np.uint8)
        memory = self.memory[target].bytes

        def copy() -> None:
            memory[:size] = content

        self.log.append(f"up {size}")
        self.enqueue(int(stream), copy, reads=[], writes=[target])
        return (cudaError_t.cudaSuccess,)

    def cudaMemcpy(self, target: int, source: int, size: int, kind: Any) -> tuple[cudaError_t]:
        if kind != cudaMemcpyKind.cudaMemcpyDeviceToHost or source not in self.memory:
            return (self.misuse("no copy from the GPU"),)
        if self.used(source):
            return (self.misuse("memory was read that a stream still uses"),)
        if size > self.memory[source].bytes.size:
            return (self.misuse("more was read than there is"),)
        if "cudaMemcpy" in self.fails:
            return (self.fails["cudaMemcpy"],)
        ctypes.memmove(target, self.memory[source].bytes.ctypes.data, size)
        self.log.append(f"down {size}")
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, cudaStream_t]:
        with self._lock:
            number = self._next
            self._next += 256
            self.streams[number] = Stream(self.device, flags)
            return cudaError_t.cudaSuccess, cudaStream_t(number)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[cudaError_t]:
        found = self.streams.get(int(stream))
        if found is None:
            return (cudaError_t.cudaErrorInvalidResourceHandle,)
        while found.work:
            found.work.pop(0)()
        with self._lock:
            found.reads.clear()
            found.writes.clear()
        self.log.append("wait")
        failure = self.fails.get("cudaStreamSynchronize", cudaError_t.cudaSuccess)
        return (failure,)

    def cudaStreamDestroy(self, stream: Any) -> tuple[cudaError_t]:
        with self._lock:
            if self.streams.pop(int(stream), Stream(0, 0)).work:
                return (self.misuse("a stream ended with work on it"),)
            return (cudaError_t.cudaSuccess,)
