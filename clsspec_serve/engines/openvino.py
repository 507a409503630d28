"""OpenVINO on the CPU, in fp32 or bf16, whichever is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openvino
from numpy.typing import NDArray

from clsspec_serve.choices import Precision
from clsspec_serve.engines.protocol import Arrays
from clsspec_serve.errors import EngineError

_HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """One compiled model; the precision is always set, since OpenVINO's own default may be bf16."""

    name = "openvino"

    def __init__(
        self, graph: Path, *, precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        self.precision: Precision = precision
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise EngineError("this CPU has no bf16 instructions; use --precision fp32")
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            self._request = core.compile_model(graph, "CPU", config).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"openvino cannot load {graph}: {_one_line(error)}") from error

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Engine.run`. The arrays are copies; the next run does not change them."""
        try:
            self._request.infer(dict(inputs))
            return {name: self._request.get_tensor(name).data.copy() for name in outputs}
        except RuntimeError as error:
            raise EngineError(f"openvino failed: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
