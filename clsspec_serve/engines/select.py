"""Which engine runs a graph, and what to install when none can."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from clsspec_serve.choices import EngineChoice, EngineName, Precision
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.errors import EngineError, UsageError

_EXTRAS: dict[EngineName, str] = {"onnxruntime": "cpu", "openvino": "openvino"}
PRECISIONS: dict[EngineName, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
}
"""What each engine can be asked for; fp32 is the reference and the default of both."""


def installed_engines() -> list[EngineName]:
    """The engines that can be imported here, in the order in which `auto` prefers them."""
    return [name for name in _EXTRAS if find_spec(name) is not None]


def choose_engine(engine: EngineChoice, precision: Precision) -> EngineName:
    """The engine for a request; `auto` is the first installed one that has the precision.

    Raises `EngineError` naming the command that installs what is missing, `UsageError` for words
    that name no engine or precision. The precision is never lowered.
    """
    if engine not in get_args(EngineChoice) or precision not in get_args(Precision):
        raise UsageError(
            f"engine {engine!r}, precision {precision!r}; accepted are "
            f"{', '.join(get_args(EngineChoice))} and {', '.join(get_args(Precision))}"
        )
    _refuse_both_onnxruntimes()
    installed = installed_engines()
    if engine != "auto":
        if engine not in installed:
            raise EngineError(f"{engine} is not installed; {_install(engine)}")
        if precision not in PRECISIONS[engine]:
            able = [name for name, has in PRECISIONS.items() if precision in has]
            raise EngineError(
                f"{engine} runs {', '.join(PRECISIONS[engine])} here; "
                f"{precision} needs --engine {' or '.join(able)}"
            )
        return engine
    able = [name for name, has in PRECISIONS.items() if precision in has]
    for name in able:
        if name in installed:
            return name
    raise EngineError(f"no engine for {precision} is installed; {_install(able[0])}")


def load_engine(
    graph: Path,
    *,
    engine: EngineChoice = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    shared: bool = False,
) -> Engine:
    """Load a graph with the engine that `choose_engine` names.

    `shared`: the process has other work for the cores, so waiting threads should leave them.
    """
    if choose_engine(engine, precision) == "openvino":
        from clsspec_serve.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(graph, precision=precision, threads=threads)
    from clsspec_serve.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(graph, threads=threads, shared=shared)


def _install(engine: EngineName) -> str:
    return f'install it with: pip install "clsspec-serve[{_EXTRAS[engine]}]"'


def _refuse_both_onnxruntimes() -> None:
    """The two packages overwrite each other's files; what then runs is anyone's guess."""
    try:
        versions = [version(name) for name in ("onnxruntime", "onnxruntime-gpu")]
    except PackageNotFoundError:
        return
    raise EngineError(
        f"onnxruntime {versions[0]} and onnxruntime-gpu {versions[1]} are both installed and "
        "overwrite each other's files; uninstall both, then install one"
    )
