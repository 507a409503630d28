"""ONNX Runtime on an NVIDIA GPU; results stay there until they are wanted here."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.choices import Precision
from clsspec_serve.engines.device import Device, cuda_runtime
from clsspec_serve.engines.gpus import driver_cuda, gpu_at
from clsspec_serve.engines.pinned import Pinned, pinned
from clsspec_serve.engines.protocol import Value, Values, here
from clsspec_serve.engines.without_telemetry import onnxruntime
from clsspec_serve.errors import EngineError, one_line

_PROVIDER = "CUDAExecutionProvider"
_OPTIONS = {
    # TF32 keeps ten bits of each factor, which is not fp32.
    "use_tf32": "0",
    # The default measures algorithms, and may take others, with other roundings, each time.
    "cudnn_conv_algo_search": "HEURISTIC",
    # The default takes the GPU's memory in powers of two.
    "arena_extend_strategy": "kSameAsRequested",
}


_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class Held:
    """An array in a GPU's memory that ONNX Runtime manages, an `OrtValue`."""

    def __init__(self, value: Any, device: Device, pinned: Pinned) -> None:
        self.value = value
        self._device, self._pinned = device, pinned

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array."""
        return tuple(self.value.shape())

    def numpy(self) -> NDArray[Any]:
        """A copy in this machine's memory; raises `EngineError`."""
        kind = self.value.data_type()
        if kind not in _TYPES:
            raise EngineError(f"cuda failed: an output is {kind}; accepted are {', '.join(_TYPES)}")
        found = self._pinned.array(self.shape, _TYPES[kind])
        self._device.use()
        self._device.download(self.value.data_ptr(), found)
        return found


class CudaEngine:
    """One session on the GPU of an index; see `gpus`.

    A session that does not get the GPU is an `EngineError`. ONNX Runtime works out shapes on the
    CPU, as it would any node that it has no kernel for; `make test-gpu` lists which.
    """

    name = "cuda"

    def __init__(self, graph: Path, *, precision: Precision = "fp32", device: int = 0) -> None:
        self.precision: Precision = precision  # the graph's own
        self.gpu = gpu_at(device)
        load_libraries()
        self._device = Device(device)
        self._pinned = pinned(self._device)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors reach the user through ours
        options.use_deterministic_compute = True
        options.intra_op_num_threads = 1
        providers = [(_PROVIDER, _OPTIONS | {"device_id": str(device)})]
        try:
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=providers, enable_fallback=0
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise EngineError(f"cuda cannot load {graph}: {one_line(error)}") from error
        if _PROVIDER not in self._session.get_providers():
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} does not start CUDA on {self.gpu}, and "
                "does not say why"
            )

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, Value]:
        """See `Engine.run`. The outputs are `Held`."""
        try:
            binding = self._session.io_binding()
            for name, value in inputs.items():
                if isinstance(value, Held):
                    binding.bind_ortvalue_input(name, value.value)
                else:
                    binding.bind_cpu_input(name, np.ascontiguousarray(here(value)))
            for name in outputs:
                binding.bind_output(name, "cuda", self.gpu.index)
            self._session.run_with_iobinding(binding)
            found = binding.get_outputs()
        except Exception as error:  # as above
            raise EngineError(f"cuda failed: {one_line(error)}") from error
        return {name: self._held(value) for name, value in zip(outputs, found, strict=True)}

    def keep(self, array: NDArray[Any]) -> Held:
        """See `WithMemory.keep`."""
        array, index = np.ascontiguousarray(array), self.gpu.index
        try:
            return self._held(onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", index))
        except Exception as error:  # as above
            raise EngineError(f"cuda failed: {one_line(error)}") from error

    def room(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """See `WithMemory.room`."""
        return self._pinned.array(shape, dtype)

    def _held(self, value: Any) -> Held:
        return Held(value, self._device, self._pinned)


@cache
def load_libraries() -> None:
    """Make CUDA's and cuDNN's libraries known to ONNX Runtime.

    Raises `EngineError` that names the one which is missing, or says that the driver is too old.
    ONNX Runtime itself would go on with the CPU.
    """
    needed, driver = int(onnxruntime.cuda_version.split(".")[0]), driver_cuda()
    if driver[0] < needed:
        raise EngineError(
            f"onnxruntime-gpu {onnxruntime.__version__} needs an NVIDIA driver for CUDA {needed}; "
            f"this one is for CUDA {driver[0]}.{driver[1]}"
        )
    cuda_runtime()
    onnxruntime.set_default_logger_severity(4)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what the next lines find out
        onnxruntime.preload_dlls()
    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for name in ("shared", "cuda"):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise EngineError(
            f"CUDA's libraries cannot be loaded: {one_line(error)}; they are installed with: pip "
            'install "clsspec-serve[gpu]"'
        ) from error
