"""ONNX Runtime on the CPU, in fp32, or in int8 where the graph says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clsspec_serve.choices import Precision
from clsspec_serve.engines.protocol import Values, here
from clsspec_serve.engines.without_telemetry import onnxruntime
from clsspec_serve.errors import EngineError, one_line


class OnnxRuntimeEngine:
    """One session; `threads` bounds the threads inside one run, by default all cores.

    `shared`: the cores have other work, too, so a thread that waits for the next part of a run
    sleeps. Otherwise it spins, which is a little faster where nothing else wants the core.
    """

    name = "onnxruntime"

    def __init__(
        self,
        graph: Path,
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        shared: bool = False,
    ) -> None:
        self.precision: Precision = precision  # the graph's own
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors reach the user through ours
        if shared:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise EngineError(f"onnxruntime cannot load {graph}: {one_line(error)}") from error

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Engine.run`."""
        try:
            given = {name: here(value) for name, value in inputs.items()}
            values = self._session.run(list(outputs), given)
        except Exception as error:  # as above
            raise EngineError(f"onnxruntime failed: {one_line(error)}") from error
        return dict(zip(outputs, values, strict=True))
