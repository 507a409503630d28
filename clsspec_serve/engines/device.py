"""A GPU's memory, streams, copies and captured work, by way of CUDA's runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from clsspec_serve.engines.bindings import bindings
from clsspec_serve.errors import EngineError, one_line


def cuda_runtime() -> Any:
    """The module `cuda.bindings.runtime`; raises `EngineError` where it is missing."""
    return bindings("cuda.bindings.runtime", "cuda-bindings", "gpu")


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

    def allocate_pinned(self, size: int) -> int:
        """The address of so many page-locked bytes of this machine, for all GPUs."""
        flags = self.cuda.cudaHostAllocPortable
        return int(self._ask(self.cuda.cudaHostAlloc(size, flags)))

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back; never raises, as it is for `__del__`."""
        self.cuda.cudaFreeHost(address)

    def upload(self, array: NDArray[Any], address: int, stream: int | None = None) -> None:
        """Copy a C-contiguous array there, now or when its turn on the stream comes."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        copy = (address, array.ctypes.data, array.nbytes, kind)
        if stream is None:
            self._ask(self.cuda.cudaMemcpy(*copy))
        else:
            self._ask(self.cuda.cudaMemcpyAsync(*copy, stream))

    def download(self, address: int, array: NDArray[Any]) -> None:
        """Fill a C-contiguous array from there, now."""
        kind = self.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._ask(self.cuda.cudaMemcpy(array.ctypes.data, address, array.nbytes, kind))

    def capture(self, stream: int, work: Callable[[], None]) -> int:
        """A graph of what `work` puts on the stream, which is not done yet.

        Raises what `work` raises. Other threads may use the GPU meanwhile.
        """
        mode = self.cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask(self.cuda.cudaStreamBeginCapture(stream, mode))
        try:
            try:
                work()
            finally:
                # The stream takes no other work until its capture has ended, well or not.
                ended = self.cuda.cudaStreamEndCapture(stream)
            return int(self._ask(self.cuda.cudaGraphInstantiate(self._ask(ended), 0)))
        finally:
            if ended[1] is not None:
                self.cuda.cudaGraphDestroy(ended[1])

    def replay(self, graph: int, stream: int) -> None:
        """Put what was captured on the stream."""
        self._ask(self.cuda.cudaGraphLaunch(graph, stream))

    def destroy(self, graph: int) -> None:
        """Give a graph back; never raises, as it is for `__del__`."""
        self.cuda.cudaGraphExecDestroy(graph)

    def _ask(self, answer: tuple[Any, ...]) -> Any:
        status, *values = answer
        if int(status) == 0:
            return values[0] if values else None
        text = self.cuda.cudaGetErrorString(status)[1].decode(errors="replace")
        full = int(status) == int(self.cuda.cudaError_t.cudaErrorMemoryAllocation)
        kind = OutOfMemory if full else EngineError
        raise kind(f"CUDA failed: {one_line(RuntimeError(text))}")
