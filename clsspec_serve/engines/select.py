"""Which engine runs a graph, and what to install when none can."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from clsspec_serve.choices import EngineChoice, EngineName, Precision
from clsspec_serve.engines.gpus import ON_GPUS, gpus
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.engines.tensorrt.buckets import LARGEST, SIZES
from clsspec_serve.errors import EngineError, UsageError

if TYPE_CHECKING:
    from clsspec_serve.engines.tensorrt.making import Accept

LOG = logging.getLogger("clsspec.engine")

_EXTRAS: dict[EngineName, str] = {
    "cuda": "gpu",
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
}
_PACKAGES: dict[EngineName, tuple[str, ...]] = {
    "cuda": ("onnxruntime-gpu",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
}
_LIBRARIES: dict[EngineName, tuple[str, ...]] = {"cuda": ("nvidia-cublas", "nvidia-cudnn-cu13")}
PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "cuda": ("fp32", "bf16", "fp16"),
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "bf16", "fp16"),
}
"""What each engine can be asked for, of a bundle that has the graph (`Bundle.graph_for`); fp32 is
the reference and the default of all."""


def installed_engines() -> list[EngineName]:
    """The engines that can be imported here, in the order in which `auto` prefers them.

    It never takes `tensorrt`, which is the last: that builds for minutes first.
    """
    return [name for name in _EXTRAS if _is_installed(name)]


def running_engines() -> list[EngineName]:
    """Those of them that run a graph as it is on this machine; logs why `cuda` does not.

    `tensorrt` is not among them, as above: see `tensorrt_runs`.
    """
    found = [name for name in installed_engines() if name != "tensorrt"]
    return [name for name in found if name != "cuda" or _runs(name)]


def tensorrt_runs() -> bool:
    """Whether plans can be built and run on this machine; logs why not where it is installed."""
    return _is_installed("tensorrt") and _runs("tensorrt")


def package_version(name: EngineName) -> str | None:
    """Of the package that brings an engine; None where it is another one, or none."""
    found = (_distribution(package) for package in _PACKAGES[name])
    return next((each for each in found if each is not None), None)


def engine_version(name: str) -> str | None:
    """Of the loaded runtime itself, as several distributions provide the same one."""
    return getattr(sys.modules.get(_module(name)), "__version__", None)


def library_versions(name: EngineName) -> dict[str, str]:
    """Of packages beside the engine's own that decide on how it rounds."""
    found = {each: _distribution(each) for each in _LIBRARIES.get(name, ())}
    return {each: number for each, number in found.items() if number is not None}


def choose_engine(
    engine: EngineChoice, precision: Precision, *, gpus_here: bool | None = None
) -> EngineName:
    """The engine for a request; `auto` is the first installed one that has the precision.

    It leaves out `cuda` where that cannot run, and logs why, and `tensorrt` always. `gpus_here`:
    whether `cuda` can run, where that is known already, as of a cluster. Raises `EngineError`
    naming the command that installs what is missing, `UsageError` for words that name no engine or
    precision. The precision is never lowered.
    """
    if engine not in get_args(EngineChoice) or precision not in get_args(Precision):
        raise UsageError(
            f"engine {engine!r}, precision {precision!r}; accepted are "
            f"{', '.join(get_args(EngineChoice))} and {', '.join(get_args(Precision))}"
        )
    _refuse_both_onnxruntimes()
    installed = installed_engines()
    able = [name for name, has in PRECISIONS.items() if precision in has]
    if engine != "auto":
        if engine not in installed:
            raise EngineError(f"{engine} is not installed; {_install(engine)}")
        if engine not in able:
            raise EngineError(
                f"{engine} runs {', '.join(PRECISIONS[engine])} here; "
                f"{precision} needs --engine {' or '.join(able)}"
            )
        return engine
    usable = [name for name in able if name in installed]
    usable = [name for name in usable if name != "tensorrt"]
    if "cuda" in usable and not (_cuda_runs(usable) if gpus_here is None else gpus_here):
        usable.remove("cuda")
        if not usable:
            reason = why_not("cuda") if gpus_here is None else "there is no GPU"
            raise EngineError(f"cuda is the only engine for {precision} here: {reason}")
    if not usable:
        cheapest = next((name for name in able if name not in ON_GPUS), able[0])
        raise EngineError(f"no engine for {precision} is installed; {_install(cheapest)}")
    return usable[0]


def load_engine(
    graph: Path,
    *,
    engine: EngineChoice = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    shared: bool = False,
    device: int = 0,
    batch_size: int = LARGEST,
    sizes: int = SIZES,
    accept: Accept | None = None,
) -> Engine:
    """Load a graph with the engine that `choose_engine` names.

    `shared`: the process has other work for the cores, so waiting threads should leave them.
    `device`: the index of the GPU, for an engine that runs on one. The others are for `tensorrt`,
    which makes plans for batches up to `batch_size` of so many `sizes`, and shows `accept` each
    new one.
    """
    chosen = choose_engine(engine, precision)
    if chosen == "cuda":
        from clsspec_serve.engines.cuda import CudaEngine

        return CudaEngine(graph, precision=precision, device=device)
    if chosen == "tensorrt":
        from clsspec_serve.engines.tensorrt.engine import TensorRtEngine

        return TensorRtEngine(
            graph,
            precision=precision,
            device=device,
            largest=batch_size,
            sizes=sizes,
            accept=accept,
        )
    if chosen == "openvino":
        from clsspec_serve.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(graph, precision=precision, threads=threads)
    from clsspec_serve.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(graph, precision=precision, threads=threads, shared=shared)


def why_not(engine: EngineName) -> str | None:
    """Why an installed engine for GPUs does not run on this machine, None where it does."""
    try:
        gpus()
        if engine == "tensorrt":
            from clsspec_serve.engines.device import cuda_runtime
            from clsspec_serve.engines.tensorrt.libraries import tensorrt

            tensorrt()
            cuda_runtime()
        else:
            from clsspec_serve.engines.cuda import load_libraries

            load_libraries()
    except EngineError as error:
        return str(error)
    return None


def _runs(engine: EngineName) -> bool:
    """Whether an engine for GPUs does, logged where it does not."""
    reason = why_not(engine)
    if reason is not None:
        LOG.warning("engine: %s is left out: %s", engine, reason)
    return reason is None


def _cuda_runs(usable: list[EngineName]) -> bool:
    """Whether it does, and what is taken in its place and why, logged where it does not."""
    reason, others = why_not("cuda"), [name for name in usable if name != "cuda"]
    if reason is None:
        LOG.info("engine: cuda, on %s", gpus()[0])
    elif others:
        LOG.warning("engine: %s, on the CPU, as cuda does not run: %s", others[0], reason)
    return reason is None


def _is_installed(name: EngineName) -> bool:
    if name == "tensorrt" and not (_found("cuda") and _found("cuda.bindings")):
        return False
    return _found(_module(name)) and (name != "cuda" or package_version(name) is not None)


def _found(module: str) -> bool:
    return find_spec(module) is not None


def _module(name: str) -> str:
    return "onnxruntime" if name == "cuda" else name


def _distribution(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _install(engine: EngineName) -> str:
    words = f'pip install "clsspec-serve[{_EXTRAS[engine]}]"'
    if engine in ON_GPUS and _distribution("onnxruntime"):
        words = f"pip uninstall --yes onnxruntime; {words}"
    return f"install it with: {words}"


def _refuse_both_onnxruntimes() -> None:
    """The two packages overwrite each other's files; what then runs is anyone's guess."""
    versions = [_distribution(name) for name in ("onnxruntime", "onnxruntime-gpu")]
    if all(versions):
        raise EngineError(
            f"onnxruntime {versions[0]} and onnxruntime-gpu {versions[1]} are both installed and "
            "overwrite each other's files; uninstall both, then install one"
        )
