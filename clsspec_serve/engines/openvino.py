"""OpenVINO on the CPU, in fp32 or bf16, whichever is asked for, or in int8."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import openvino
from numpy.typing import NDArray

from clsspec_serve.choices import Precision
from clsspec_serve.engines.protocol import Values, here
from clsspec_serve.errors import EngineError, one_line


class OpenVinoEngine:
    """One compiled model, and a request for each thread that runs it.

    The precision is always set, since OpenVINO's own default may be bf16. In int8 what the graph
    leaves to floating point is bf16 where the CPU has that.
    """

    name = "openvino"

    def __init__(
        self, graph: Path, *, precision: Precision = "fp32", threads: int | None = None
    ) -> None:
        self.precision: Precision = precision
        core = _core()
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not has_bf16:
            raise EngineError("this CPU has no bf16 instructions; use --precision fp32")
        hint = "bf16" if has_bf16 and precision != "fp32" else "f32"
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        try:
            with _real_files(graph) as file:
                self._model = core.compile_model(file, "CPU", config)
        except (RuntimeError, OSError) as error:
            raise EngineError(f"openvino cannot load {graph}: {one_line(error)}") from error
        self._thread = threading.local()

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Engine.run`. The arrays are copies; the next run does not change them."""
        try:
            if not hasattr(self._thread, "request"):
                self._thread.request = self._model.create_infer_request()
            request = self._thread.request
            request.infer({name: here(value) for name, value in inputs.items()})
            return {name: request.get_tensor(name).data.copy() for name in outputs}
        except RuntimeError as error:
            raise EngineError(f"openvino failed: {one_line(error)}") from error


@cache
def _core() -> openvino.Core:
    """The only one of the process.

    Each Core gives its thread a stack for signals, and at its end brings back the one before, which
    an earlier Core may have freed by then: the next Ctrl-C, or the end of a child, is a crash.
    """
    return openvino.Core()


@contextmanager
def _real_files(graph: Path) -> Iterator[Path]:
    """The graph beside its weights as real files.

    OpenVINO refuses weights behind a link out of the folder, which the Hub's cache consists of.
    """
    # Weights may be those of another graph.
    files = [file for file in graph.parent.glob("*.onnx*") if file.is_file()]
    if not any(file.is_symlink() for file in files):
        yield graph
        return
    targets = {file.name: Path(os.path.realpath(file)) for file in files}
    beside = targets[graph.name].parent
    parent = beside if os.access(beside, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=".clsspec-", dir=parent) as folder:
        for name, target in targets.items():
            try:
                os.link(target, Path(folder) / name)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(target, Path(folder) / name)
        yield Path(folder) / graph.name
