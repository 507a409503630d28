"""TensorRT's Python bindings, found where they are first needed, and TensorRT's log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from clsspec_serve.engines.bindings import bindings
from clsspec_serve.errors import EngineError, one_line

INSTALL = 'pip install "clsspec-serve[tensorrt]"'
_OLDEST = 10


class Refused(Exception):
    """TensorRT said no, and in its log why."""


def tensorrt() -> Any:
    """The module `tensorrt`, of version 10 or newer.

    Raises `EngineError` for one that is missing, too old, or without its libraries.
    """
    module = bindings("tensorrt", "tensorrt", "tensorrt")
    if major(module) < _OLDEST:
        raise EngineError(
            f"TensorRT {module.__version__} is too old; accepted are 10 and 11: {INSTALL}"
        )
    return module


def major(module: Any) -> int:
    """The first number of TensorRT's version."""
    return int(module.__version__.split(".")[0])


@contextmanager
def listening(module: Any) -> Iterator[list[str]]:
    """What TensorRT writes to its log as an error while the block runs, in any thread.

    Its functions return that they failed, and only the log says why.
    """
    lines: list[str] = []
    listeners = the_log(module).listeners
    listeners[id(lines)] = lines
    try:
        yield lines
    finally:
        del listeners[id(lines)]


def why(lines: list[str]) -> str:
    """The last of what was heard, each once, on one line."""
    last = [*dict.fromkeys(lines)][-3:]
    return one_line(RuntimeError("; ".join(last) or "TensorRT does not say why"))


@cache
def the_log(module: Any) -> Any:
    """The only one of the process, as TensorRT has all its objects write to the first."""

    class Log(module.ILogger):  # type: ignore[misc]  # a class of a module without types
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.listeners: dict[int, list[str]] = {}

        def log(self, severity: Any, msg: str) -> None:
            # Whatever TensorRT's threads say at the same time, no line is lost and nothing raises.
            if severity in (module.ILogger.ERROR, module.ILogger.INTERNAL_ERROR):
                for lines in [*self.listeners.values()]:
                    lines.append(msg)

    return Log()
