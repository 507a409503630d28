"""CUDA's runtime without a GPU: memory that only its own functions reach, and streams that wait.

Work on a stream is done when somebody waits for the stream, and not before; while a stream is
captured its work is kept, and done as often as it is replayed. What a GPU would let pass and pay
for later is a misuse here, and kept: memory that is freed twice, or while a stream still uses it,
read before it is there, or used by two streams at once.
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
    cudaErrorStreamCaptureUnsupported = 900


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


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


@dataclass(frozen=True)
class Work:
    """What is to be done, and which memory that reads and writes."""

    do: Callable[[], None]
    reads: frozenset[int]
    writes: frozenset[int]


@dataclass
class Stream:
    """What waits for its turn; `captured`: what does not, while the stream is captured."""

    device: int
    flags: int
    work: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None

    @property
    def reads(self) -> set[int]:
        return {address for each in self.work for address in each.reads}

    @property
    def writes(self) -> set[int]:
        return {address for each in self.work for address in each.writes}


class Handle:
    """As of the bindings: an object that is a number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number


class CudaRuntime:
    """In the place of the module `cuda.bindings.runtime`.

    `log`: what crossed, and what was allocated, freed and waited for. `capacity`: bytes of each
    GPU. `fails`: functions that fail, by name, with a status. `pinned`: page-locked memory, by
    address. `graphs`: what was captured, by the number of the graph or of its executable form.
    """

    cudaError_t = cudaError_t
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaMemcpyKind = cudaMemcpyKind
    cudaDeviceAttr = cudaDeviceAttr
    cudaStreamNonBlocking = 1
    cudaHostAllocPortable = 1

    def __init__(self, architectures: list[tuple[int, int]]) -> None:
        self.architectures = architectures
        self.log: list[str] = []
        self.misuses: list[str] = []
        self.memory: dict[int, Memory] = {}
        self.streams: dict[int, Stream] = {}
        self.pinned: dict[int, NDArray[np.uint8]] = {}
        self.graphs: dict[int, list[Work]] = {}
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
        self._put(number, [Work(work, frozenset(reads), frozenset(writes))])

    def _put(self, number: int, works: list[Work]) -> None:
        with self._lock:
            stream = self.streams[number]
            if stream.captured is not None:
                stream.captured += works
                return
            for work in works:
                for other in self.streams.values():
                    if other is not stream and (
                        work.writes & (other.reads | other.writes) or work.reads & other.writes
                    ):
                        self.misuse("two streams use the same memory at once")
                used = work.reads | work.writes
                if used - self.memory.keys():
                    self.misuse("a stream uses memory that was freed")
                elif any(self.memory[address].device != stream.device for address in used):
                    self.misuse("a stream uses the memory of another GPU")
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
        up = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
        there = target if up else source
        if there not in self.memory:
            return (self.misuse("no copy to the GPU or from it"),)
        if self.used(there):
            return (self.misuse("memory was copied that a stream still uses"),)
        if size > self.memory[there].bytes.size:
            return (self.misuse("more was copied than there is"),)
        if "cudaMemcpy" in self.fails:
            return (self.fails["cudaMemcpy"],)
        address = self.memory[there].bytes.ctypes.data
        ctypes.memmove(*((address, source) if up else (target, address)), size)
        self.log.append(f"{'up' if up else 'down'} {size}")
        return (cudaError_t.cudaSuccess,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[cudaError_t, int | None]:
        assert flags == self.cudaHostAllocPortable, "only its own GPU copies it directly"
        if "cudaHostAlloc" in self.fails:
            return self.fails["cudaHostAlloc"], None
        memory = np.full(size, POISON, np.uint8)
        self.pinned[memory.ctypes.data] = memory
        self.log.append(f"pin {size}")
        return cudaError_t.cudaSuccess, memory.ctypes.data

    def cudaFreeHost(self, address: int) -> tuple[cudaError_t]:
        if address not in self.pinned:
            return (self.misuse("page-locked memory that is not there was freed"),)
        # Whoever still reads it is to see that it is gone.
        memory = self.pinned.pop(address)
        memory[...] = POISON
        self.log.append(f"unpin {memory.size}")
        return (cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[cudaError_t]:
        if mode != cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal:
            self.misuse("other threads cannot allocate while a stream is captured")
        found = self.streams[int(stream)]
        if found.captured is not None:
            return (self.misuse("a stream is captured twice at once"),)
        found.captured = []
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[cudaError_t, Any]:
        found = self.streams[int(stream)]
        if found.captured is None:
            return self.misuse("the capture of no stream was ended"), None
        works, found.captured = found.captured, None
        if "cudaStreamEndCapture" in self.fails:
            return self.fails["cudaStreamEndCapture"], None
        return cudaError_t.cudaSuccess, self._graph(works)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[cudaError_t, Any]:
        if "cudaGraphInstantiate" in self.fails:
            return self.fails["cudaGraphInstantiate"], None
        self.log.append("capture")
        return cudaError_t.cudaSuccess, self._graph(self.graphs[int(graph)])

    def _graph(self, works: list[Work]) -> Handle:
        with self._lock:
            number = self._next
            self._next += 256
            self.graphs[number] = works
            return Handle(number)

    def cudaGraphDestroy(self, graph: Any) -> tuple[cudaError_t]:
        if self.graphs.pop(int(graph), None) is None:
            return (self.misuse("a graph that is not there was destroyed"),)
        return (cudaError_t.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: Any, stream: Any) -> tuple[cudaError_t]:
        self.log.append("replay")
        self._put(int(stream), self.graphs[int(graph)])
        return (cudaError_t.cudaSuccess,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, Handle]:
        with self._lock:
            number = self._next
            self._next += 256
            self.streams[number] = Stream(self.device, flags)
            return cudaError_t.cudaSuccess, Handle(number)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[cudaError_t]:
        found = self.streams.get(int(stream))
        if found is None:
            return (cudaError_t.cudaErrorInvalidResourceHandle,)
        if found.captured is not None:
            return (self.misuse("somebody waits for a stream that is captured"),)
        while found.work:
            found.work[0].do()
            with self._lock:
                found.work.pop(0)
        self.log.append("wait")
        failure = self.fails.get("cudaStreamSynchronize", cudaError_t.cudaSuccess)
        return (failure,)

    def cudaStreamDestroy(self, stream: Any) -> tuple[cudaError_t]:
        with self._lock:
            if self.streams.pop(int(stream), Stream(0, 0)).work:
                return (self.misuse("a stream ended with work on it"),)
            return (cudaError_t.cudaSuccess,)
