"""GPUs that are not there: the engine for CUDA, on the CPU, and what it asks of ONNX Runtime.

A session of the double computes on the CPU provider. What is "on the GPU" is memory of
`standins/cuda_runtime.py`, and everything that crosses is recorded. In a process of its own,
`standins/gpus` on the path has the same effect from its beginning; the file that the variable `LOG`
names then has a line for each session.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from standins.cuda_runtime import CudaRuntime

from clsspec_serve.engines import cuda, device, select
from clsspec_serve.engines import gpus as gpus_module
from clsspec_serve.engines.gpus import Gpu

GPUS = (Gpu(0, "NVIDIA Double"), Gpu(1, "NVIDIA Double"))
PROVIDER = "CUDAExecutionProvider"
LOG = "CUDA_DOUBLE_LOG"
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Memory:
    """An array on a device: an `OrtValue`."""

    def __init__(self, array: NDArray[Any], device: int, cuda: CudaRuntime) -> None:
        self.device, self._cuda = device, cuda
        self._like = array.dtype, array.shape
        cuda.cudaSetDevice(device)
        status, self._address = cuda.cudaMalloc(array.nbytes)
        if self._address is None:
            raise RuntimeError(f"CUDA failure {int(status)}")
        self.array[...] = array

    @property
    def array(self) -> NDArray[Any]:
        dtype, shape = self._like
        return self._cuda.array(self.data_ptr(), shape, dtype)

    def shape(self) -> list[int]:
        return [*self._like[1]]

    def data_type(self) -> str:
        return {"float32": "tensor(float)", "uint8": "tensor(uint8)"}[self._like[0].name]

    def data_ptr(self) -> int:
        assert self._address is not None
        return self._address

    def __del__(self) -> None:
        if self._address is not None:
            self._cuda.cudaFree(self._address)


class Binding:
    """What a session is given and where its outputs are to stay."""

    def __init__(self, device: int, log: list[str]) -> None:
        self.device, self._log = device, log
        self.inputs: dict[str, NDArray[Any]] = {}
        self.names: list[str] = []
        self.found: list[Memory] = []

    def bind_cpu_input(self, name: str, array: NDArray[Any]) -> None:
        assert isinstance(array, np.ndarray)
        assert array.flags.c_contiguous, "a session reads the memory as it lies"
        self._log.append(f"up {name}")
        self.inputs[name] = array

    def bind_ortvalue_input(self, name: str, value: Memory) -> None:
        assert value.device == self.device, "a session has no other GPU's memory"
        self._log.append(f"stays {name}")
        self.inputs[name] = value.array

    def bind_output(self, name: str, kind: str, device: int) -> None:
        assert (kind, device) == ("cuda", self.device)
        self.names.append(name)

    def get_outputs(self) -> list[Memory]:
        return self.found


class Session:
    """As onnxruntime's, with a provider that is not there."""

    def __init__(
        self, double: Double, graph: Path, options: Any, providers: Any, enable_fallback: int = 1
    ) -> None:
        ((name, self.options),) = providers
        assert name == PROVIDER
        assert options.log_severity_level == 4
        self.device = int(self.options["device_id"])
        assert not enable_fallback, "a session goes to the CPU, and prints that it does"
        self._double = double
        if LOG in os.environ:
            with open(os.environ[LOG], "a") as log:
                print(os.getpid(), self.device, os.environ.get(VISIBLE, "all"), file=log)
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        return self._double.providers

    def io_binding(self) -> Binding:
        return Binding(self.device, self._double.cuda.log)

    def run_with_iobinding(self, binding: Binding) -> None:
        values: Sequence[NDArray[Any]] = self._session.run(binding.names, binding.inputs)
        self._double.cuda.log.append("run")
        binding.found = [Memory(value, self.device, self._double.cuda) for value in values]


class Double:
    """In the place of the module `onnxruntime`; `cuda.log` is what crossed, and the runs."""

    __version__ = "1.99"
    SessionOptions = onnxruntime.SessionOptions

    def __init__(self) -> None:
        self.cuda = CudaRuntime([(9, 0)] * len(GPUS))
        self.OrtValue = self
        self.sessions: list[Session] = []
        self.providers = [PROVIDER, "CPUExecutionProvider"]

    def InferenceSession(self, graph: Path, options: Any, **settings: Any) -> Session:
        self.sessions.append(Session(self, graph, options, **settings))
        return self.sessions[-1]

    def ortvalue_from_numpy(self, array: NDArray[Any], kind: str, device: int) -> Memory:
        assert kind == "cuda"
        assert array.flags.c_contiguous, "it is copied as it lies"
        self.cuda.log.append(f"keep {array.shape}")
        return Memory(array, device, self.cuda)


def versions(name: str) -> str | None:
    """As of an environment with `[gpu]`."""
    return {"onnxruntime-gpu": "1.99", "openvino": "2026.9"}.get(name)


def install(put: Any = setattr) -> Double:
    """Let `cuda` be an engine of this process; `put` is `setattr`, or pytest's for a test."""
    double = Double()
    put(device, "cuda_runtime", lambda: double.cuda)
    put(cuda, "onnxruntime", double)
    put(cuda, "load_libraries", lambda: None)
    put(select, "_distribution", versions)
    put(gpus_module, "driver_cuda", lambda: (13, 0))
    for module in (gpus_module, select):
        put(module, "gpus", lambda: GPUS)
    return double
