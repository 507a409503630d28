"""What is said where TensorRT, CUDA or a fitting GPU is missing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorrt_double import VERSIONS, Double, install

from clsspec_serve.engines.tensorrt import libraries
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.libraries import listening, the_log, why
from clsspec_serve.errors import EngineError

INSTALL = 'pip install "clsspec-serve[tensorrt]"'


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(EngineError) as info:
        act()
    return str(info.value)


def importing(monkeypatch: pytest.MonkeyPatch, error: Exception, name: str = "tensorrt") -> None:
    real = importlib.import_module

    def import_module(wanted: str) -> object:
        if wanted == name:
            raise error
        return real(wanted)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_a_package_that_is_missing_is_named_with_its_command(
    graph: Path, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        importing(patch, ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"))
        assert refused(lambda: TensorRtEngine(graph)) == (
            f"tensorrt is not installed; install it with: {INSTALL}"
        )
    with monkeypatch.context() as patch:
        error = ModuleNotFoundError("No module named 'x'", name="tensorrt_bindings")
        importing(patch, error)
        assert refused(libraries.tensorrt) == (
            f"tensorrt_bindings is not installed; install it with: {INSTALL}"
        )
    for missing in ("cuda", "cuda.bindings"):
        with monkeypatch.context() as patch:
            error = ModuleNotFoundError(f"No module named '{missing}'", name=missing)
            importing(patch, error, "cuda.bindings.runtime")
            assert refused(lambda: TensorRtEngine(graph)) == (
                'cuda-bindings is not installed; install it with: pip install "clsspec-serve[gpu]"'
            )


@pytest.mark.skipif("tensorrt" in sys.modules, reason="it is installed here")
def test_nothing_of_it_is_needed_to_say_so() -> None:
    try:
        import tensorrt  # noqa: F401
    except ImportError:
        assert INSTALL in refused(libraries.tensorrt)


def test_libraries_that_cannot_be_loaded_are_named(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ImportError("libnvinfer.so.11: cannot open shared object file:\n No such file")
    importing(monkeypatch, error)
    assert refused(libraries.tensorrt) == (
        "tensorrt's libraries cannot be loaded: libnvinfer.so.11: cannot open shared object file: "
        f"No such file; they are installed with: {INSTALL}"
    )


def test_an_old_version_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("8.6.1", put=monkeypatch.setattr, put_module=monkeypatch.setitem)
    assert refused(lambda: TensorRtEngine(graph)) == (
        f"TensorRT 8.6.1 is too old; accepted are 10 and 11: {INSTALL}"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_bf16_is_for_gpus_that_have_it(
    graph: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = {"put": monkeypatch.setattr, "put_module": monkeypatch.setitem}
    install(version, (7, 5), **put)
    assert refused(lambda: TensorRtEngine(graph, precision="bf16")) == (
        "NVIDIA Double 9000 (cuda:0) has no bf16; use --precision fp16"
    )
    assert "sm75-trt" in str(TensorRtEngine(graph, precision="fp16").folder)
    install(version, (8, 0), **put)
    assert "sm80-trt" in str(TensorRtEngine(graph, precision="bf16").folder)
    install(version, (12, 0), **put)
    assert "sm120-trt" in str(TensorRtEngine(graph, precision="bf16").folder)


def test_what_tensorrt_says_reaches_all_who_listen_and_nobody_else(double: Double) -> None:
    log = the_log(double)
    assert the_log(double) is log
    with listening(double) as outer:
        with listening(double) as inner:
            log.log(log.ERROR, "one")
            log.log(log.WARNING, "a warning")
        log.log(log.INTERNAL_ERROR, "two")
    log.log(log.ERROR, "three")
    assert (outer, inner) == (["one", "two"], ["one"])
    assert log.listeners == {}


def test_the_last_of_what_was_said_is_told_once() -> None:
    assert why(["a", "b", "b", "c\nc", "d"]) == "b; c c; d"
    assert why([]) == "TensorRT does not say why"
