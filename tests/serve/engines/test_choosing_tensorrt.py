"""When TensorRT is an engine of this machine, and that nobody gets it without asking."""

from __future__ import annotations

import sys

import pytest
from tensorrt_double import VERSIONS, Double, install

from clsspec_serve.engines import select
from clsspec_serve.engines.select import (
    choose_engine,
    engine_version,
    installed_engines,
    library_versions,
    package_version,
    running_engines,
    tensorrt_runs,
    why_not,
)
from clsspec_serve.errors import EngineError

NO_DRIVER = "this machine has no NVIDIA driver (libcuda.so.1); a container needs --gpus all"


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(put=monkeypatch.setattr, put_module=monkeypatch.setitem)


def no_driver() -> None:
    raise EngineError(NO_DRIVER)


def only(monkeypatch: pytest.MonkeyPatch, *modules: str) -> list[str]:
    """These can be imported; what was looked for."""
    asked: list[str] = []

    def find_spec(name: str) -> object:
        parent = name.rpartition(".")[0]
        if parent and parent not in modules:
            raise ModuleNotFoundError(parent)
        asked.append(name)
        return object() if name in modules else None

    monkeypatch.setattr(select, "find_spec", find_spec)
    return asked


def test_it_is_installed_where_both_of_its_packages_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = only(monkeypatch, "tensorrt", "cuda", "cuda.bindings")
    assert installed_engines() == ["tensorrt"]
    assert "tensorrt" in asked
    for modules in (("tensorrt",), ("tensorrt", "cuda"), ("cuda", "cuda.bindings")):
        only(monkeypatch, *modules)
        assert installed_engines() == []
    assert "tensorrt" not in sys.modules


def test_auto_never_takes_it(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_engines() == ["onnxruntime", "openvino", "tensorrt"]
    assert choose_engine("auto", "fp32") == "onnxruntime"
    assert choose_engine("auto", "bf16") == "openvino"
    only(monkeypatch, "tensorrt", "cuda", "cuda.bindings")
    monkeypatch.setattr(select, "_found", lambda name: select.find_spec(name) is not None)
    with pytest.raises(EngineError, match=r'no engine for fp32 is .*"clsspec-serve\[cpu\]"$'):
        choose_engine("auto", "fp32")
    with pytest.raises(EngineError, match=r'no engine for fp16 is .*"clsspec-serve\[gpu\]"$'):
        choose_engine("auto", "fp16")


def test_who_asks_for_it_gets_it_in_its_precisions(double: Double) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        assert choose_engine("tensorrt", precision) == "tensorrt"  # type: ignore[arg-type]  # words
    with pytest.raises(EngineError, match="tensorrt runs fp32, bf16, fp16 here; int8 needs --eng"):
        choose_engine("tensorrt", "int8")


def test_the_command_that_installs_it_is_named() -> None:
    with pytest.raises(EngineError) as info:
        choose_engine("tensorrt", "fp32")
    assert str(info.value) == (
        "tensorrt is not installed; install it with: pip uninstall --yes onnxruntime; "
        'pip install "clsspec-serve[tensorrt]"'
    )


def test_it_runs_apart_from_the_others_or_it_is_said_why_not(
    double: Double, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert running_engines() == ["onnxruntime", "openvino"]
    assert tensorrt_runs()
    assert why_not("tensorrt") is None
    assert caplog.messages == []
    with monkeypatch.context() as patch:
        patch.setattr(select, "gpus", no_driver)
        assert not tensorrt_runs()
        assert running_engines() == ["onnxruntime", "openvino"]
    double.__version__ = "8.6.1"
    assert not tensorrt_runs()
    said = "engine: tensorrt is left out: "
    assert caplog.messages[0] == f"{said}{NO_DRIVER}"
    assert caplog.messages[1].startswith(f"{said}TensorRT 8.6.1 is too old; ")


def test_where_it_is_not_installed_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert not tensorrt_runs()
    assert caplog.messages == []


def test_cudas_libraries_are_a_reason_too(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EngineError("cuda-bindings's libraries cannot be loaded")

    monkeypatch.setattr("clsspec_serve.engines.device.cuda_runtime", missing)
    assert why_not("tensorrt") == "cuda-bindings's libraries cannot be loaded"


def test_its_version_is_that_of_its_package(double: Double) -> None:
    assert (package_version("tensorrt"), engine_version("tensorrt")) == (VERSIONS[-1],) * 2
    assert library_versions("tensorrt") == {}


def test_a_precision_that_only_a_gpu_has_is_refused_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cuda_double import install as install_cuda

    install_cuda(monkeypatch.setattr)
    assert choose_engine("auto", "fp16") == "cuda"
    monkeypatch.setattr(select, "gpus", no_driver)
    for gpus_here, words in ((None, NO_DRIVER), (False, "there is no GPU")):
        with pytest.raises(EngineError) as info:
            choose_engine("auto", "fp16", gpus_here=gpus_here)
        assert str(info.value) == f"cuda is the only engine for fp16 here: {words}"
