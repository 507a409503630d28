"""When `auto` is a GPU, and what is said where it cannot be."""

from __future__ import annotations

import logging

import pytest
from cuda_double import install

from clsspec_serve.engines import cuda, select
from clsspec_serve.engines.select import (
    choose_engine,
    installed_engines,
    running_engines,
    why_not,
)
from clsspec_serve.errors import EngineError

NO_DRIVER = "this machine has no NVIDIA driver (libcuda.so.1); a container needs --gpus all"


@pytest.fixture(autouse=True)
def _gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch.setattr)


def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise EngineError(NO_DRIVER)

    monkeypatch.setattr(select, "gpus", refuse)


def test_auto_takes_a_gpu_where_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_engine("auto", "fp32") == "cuda"
    assert caplog.messages == ["engine: cuda, on NVIDIA Double (cuda:0)"]
    assert caplog.records[0].levelname == "INFO"
    assert why_not("cuda") is None


def test_auto_says_why_it_takes_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_driver(monkeypatch)
    assert choose_engine("auto", "fp32") == "onnxruntime"
    words = f"engine: onnxruntime, on the CPU, as cuda does not run: {NO_DRIVER}"
    assert caplog.messages == [words]
    assert why_not("cuda") == NO_DRIVER


def test_a_library_that_is_missing_is_a_reason_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise EngineError("CUDA's libraries are not all here: libcurand.so.10")

    monkeypatch.setattr(cuda, "load_libraries", refuse)
    assert choose_engine("auto", "fp32") == "onnxruntime"
    assert caplog.messages[0].endswith("not all here: libcurand.so.10")


def test_a_gpu_that_was_asked_for_is_never_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without_driver(monkeypatch)
    assert choose_engine("cuda", "fp32") == "cuda"
    assert caplog.messages == []


@pytest.mark.parametrize(("there", "engine"), [(True, "cuda"), (False, "onnxruntime")])
def test_what_is_known_of_a_cluster_is_not_looked_up_here(
    monkeypatch: pytest.MonkeyPatch, there: bool, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    without_driver(monkeypatch)
    assert choose_engine("auto", "fp32", gpus_here=there) == engine
    assert caplog.messages == []


def test_a_precision_that_the_gpu_does_not_have_goes_to_the_engine_that_has_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert choose_engine("auto", "int8") == "onnxruntime"
    with pytest.raises(EngineError, match="cuda runs fp32, bf16, fp16 here; int8 needs"):
        choose_engine("cuda", "int8")


def test_the_package_for_gpus_is_named_with_the_one_that_is_in_its_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert installed_engines() == ["cuda", "onnxruntime", "openvino"]
    for versions, words in (
        ({}, 'cuda is not installed; install it with: pip install "clsspec-serve[gpu]"'),
        (
            {"onnxruntime": "1.31.1"},
            "cuda is not installed; install it with: pip uninstall --yes onnxruntime; "
            'pip install "clsspec-serve[gpu]"',
        ),
    ):
        monkeypatch.setattr(select, "_distribution", versions.get)
        assert installed_engines() == ["onnxruntime", "openvino"]
        with pytest.raises(EngineError) as info:
            choose_engine("cuda", "fp32")
        assert str(info.value) == words


def test_what_runs_on_this_machine_leaves_out_a_gpu_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert running_engines() == ["cuda", "onnxruntime", "openvino"]
    assert caplog.messages == []
    without_driver(monkeypatch)
    assert running_engines() == ["onnxruntime", "openvino"]
    assert caplog.messages == [f"engine: cuda is left out: {NO_DRIVER}"]
