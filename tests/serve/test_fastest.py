from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from cuda_double import install
from numpy.typing import NDArray

from clsspec_serve import fastest as module
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import EngineError
from clsspec_serve.fastest import GAIN, PASSES, SECONDS, TOKENS, fastest
from clsspec_serve.manifest import Variant
from clsspec_serve.predictor import Model

Run = tuple[EngineName, Precision]
Seconds = float | list[float] | EngineError


class Machine:
    """Engines whose passes take so long, on a clock of their own; or which do not start."""

    def __init__(self, seconds: dict[Run, Seconds]) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.started: list[tuple[Run, dict[str, Any]]] = []
        self.passes: list[tuple[tuple[int, ...], list[str]]] = []

    def start(self, bundle: Bundle, *, engine: Any, precision: Any, **options: Any) -> Model:
        self.started.append(((engine, precision), options))
        seconds = self.seconds[engine, precision]
        if isinstance(seconds, EngineError):
            raise seconds
        times = iter(seconds if isinstance(seconds, list) else [seconds] * (1 + PASSES))
        return Model(bundle, Timed(self, engine, precision, times), pytest.fail)

    @property
    def runs(self) -> list[Run]:
        return [run for run, _ in self.started]


class Timed:
    """An engine."""

    def __init__(self, machine: Machine, name: str, precision: Precision, times: Any) -> None:
        self.name, self.precision = name, precision
        self._machine, self._times = machine, times

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        self._machine.now += next(self._times)
        self._machine.passes.append((inputs["pixels"].shape, [*outputs]))
        batch = len(np.asarray(inputs["pixels"]))
        shapes = {"cls": (batch, 4), "patches": (batch, *tiny.GRID, 4)}
        return {name: np.zeros(shapes[name], np.float32) for name in outputs}


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    """With graphs for int8, bf16 and fp16, that nobody reads."""
    cpus: tuple[EngineName, ...] = ("onnxruntime", "openvino")
    variants = (
        Variant(graph="a", engines=cpus, precisions=("int8",)),
        Variant(graph="b", engines=("cuda", "tensorrt"), precisions=("bf16",)),
        Variant(graph="c", engines=("cuda", "tensorrt"), precisions=("fp16",)),
    )
    manifest = tiny.tiny_manifest().model_copy(update={"variants": variants})
    return Bundle(tiny_bundle, manifest)


ALL: dict[Run, Seconds] = {
    ("onnxruntime", "fp32"): 0.100,
    ("onnxruntime", "int8"): 0.080,
    ("openvino", "fp32"): 0.090,
    ("openvino", "bf16"): 0.040,
    ("openvino", "int8"): 0.050,
    ("cuda", "fp32"): 0.009,
    ("cuda", "bf16"): 0.007,
    ("cuda", "fp16"): 0.006,
}
ON_CPUS = [run for run in ALL if run[0] != "cuda"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Where each has a time, which a test may change."""
    machine = Machine(dict(ALL))
    monkeypatch.setattr(module, "start", machine.start)
    clock = SimpleNamespace(perf_counter=lambda: machine.now)
    monkeypatch.setattr(module, "time", clock)
    return machine


def inaccurate(engine: str = "openvino", precision: str = "bf16") -> EngineError:
    return EngineError(f"{engine} is not accurate in {precision} on this machine: cls at 28x42")


def test_the_shortest_of_all_engines_and_precisions_is_taken(
    machine: Machine, bundle: Bundle
) -> None:
    assert fastest(bundle) == ("openvino", "bf16")
    assert machine.runs == ON_CPUS


@pytest.mark.parametrize("run", ON_CPUS)
def test_whichever_it_is(machine: Machine, bundle: Bundle, run: Run) -> None:
    machine.seconds[run] = 0.001
    assert fastest(bundle) == run


def test_one_that_is_not_accurate_is_left_out_and_said(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    machine.seconds["openvino", "bf16"] = inaccurate()
    with caplog.at_level(logging.INFO):
        assert fastest(bundle) == ("openvino", "int8")
    left, found = caplog.messages
    assert left == (
        "precision: bf16 on openvino is left out: openvino is not accurate in bf16 on this "
        "machine: cls at 28x42"
    )
    assert "bf16" not in found


def test_one_that_fails_while_it_is_measured_is_left_out(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Timed.run

    def fail(self: Timed, *given: Any) -> Any:
        if self.precision == "bf16":
            raise EngineError("out of memory")
        return original(self, *given)

    monkeypatch.setattr(Timed, "run", fail)
    assert fastest(bundle) == ("openvino", "int8")


def test_where_none_below_fp32_is_accurate_it_is_fp32(machine: Machine, bundle: Bundle) -> None:
    for run in ON_CPUS:
        if run[1] != "fp32":
            machine.seconds[run] = inaccurate(*run)
    assert fastest(bundle) == ("openvino", "fp32")


def test_where_fp32_does_not_run_the_reason_is_given(machine: Machine, bundle: Bundle) -> None:
    machine.seconds["openvino", "fp32"] = EngineError("openvino cannot load model.onnx: broken")
    with pytest.raises(EngineError, match=r"^openvino cannot load model\.onnx: broken$"):
        fastest(bundle)


@pytest.mark.parametrize(
    ("gain", "taken"),
    [
        (1.049, ("openvino", "fp32")),
        (1.051, ("openvino", "bf16")),
        (0.5, ("openvino", "fp32")),
    ],
)
def test_less_than_a_twentieth_is_no_reason_to_leave_fp32(
    machine: Machine, bundle: Bundle, gain: float, taken: Run
) -> None:
    for run in ON_CPUS:
        machine.seconds[run] = 0.2
    machine.seconds["openvino", "fp32"] = 0.09
    machine.seconds["openvino", "bf16"] = 0.09 / gain
    assert fastest(bundle) == taken
    assert GAIN == 1.05


def test_the_gain_is_over_the_fastest_fp32(machine: Machine, bundle: Bundle) -> None:
    """And not over that of the same engine."""
    machine.seconds |= {("openvino", "bf16"): 0.089, ("openvino", "int8"): 0.088}
    machine.seconds |= {("onnxruntime", "fp32"): 0.090, ("openvino", "fp32"): 0.200}
    machine.seconds["onnxruntime", "int8"] = 0.3
    assert fastest(bundle) == ("onnxruntime", "fp32")


@pytest.mark.parametrize(
    ("engine", "expected"),
    [("onnxruntime", ("onnxruntime", "int8")), ("openvino", ("openvino", "bf16"))],
)
def test_an_engine_that_is_named_is_the_only_one(
    machine: Machine, bundle: Bundle, engine: EngineName, expected: Run
) -> None:
    assert fastest(bundle, engine) == expected
    assert {name for name, _ in machine.runs} == {engine}


def test_an_engine_that_has_only_fp32_stays_with_it(machine: Machine, bundle: Bundle) -> None:
    plain = bundle.manifest.model_copy(update={"variants": ()})
    assert fastest(Bundle(bundle.path, plain), "onnxruntime") == ("onnxruntime", "fp32")
    assert machine.runs == [("onnxruntime", "fp32")]


def test_only_what_the_bundle_has_is_started(machine: Machine, bundle: Bundle) -> None:
    plain = bundle.manifest.model_copy(update={"variants": ()})
    fastest(Bundle(bundle.path, plain))
    assert machine.runs == [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]


@pytest.mark.parametrize("engine", ["auto", "cuda"])
@pytest.mark.parametrize("device", [None, 1])
def test_with_a_gpu_only_that_is_measured(
    machine: Machine,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    engine: Any,
    device: int | None,
) -> None:
    install(monkeypatch.setattr)
    assert fastest(bundle, engine, device=device) == ("cuda", "fp16")
    assert machine.runs == [("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16")]
    assert {options["device"] for _, options in machine.started} == {device}


def test_with_a_gpu_an_engine_for_the_cpu_is_measured_where_it_is_named(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch.setattr)
    assert fastest(bundle, "openvino") == ("openvino", "bf16")
    assert {name for name, _ in machine.runs} == {"openvino"}


def test_a_gpu_that_does_not_run_leaves_the_engines_for_cpus(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch.setattr)

    def refuse() -> None:
        raise EngineError("this machine has no NVIDIA driver")

    monkeypatch.setattr("clsspec_serve.engines.select.gpus", refuse)
    assert fastest(bundle)[0] == "openvino"
    assert machine.runs == ON_CPUS


def test_one_line_says_what_was_taken_and_beside_what(
    machine: Machine, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        fastest(bundle)
    assert caplog.messages == [
        "precision: bf16 on openvino (fp32 on onnxruntime 100 ms, int8 on onnxruntime 80 ms, "
        "fp32 on openvino 90 ms, bf16 on openvino 40 ms, int8 on openvino 50 ms for a batch of 146)"
    ]
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("INFO", "clsspec.engine")


def test_the_first_pass_of_each_does_not_count(machine: Machine, bundle: Bundle) -> None:
    machine.seconds["openvino", "bf16"] = [9.0, *([0.04] * PASSES)]
    machine.seconds["openvino", "int8"] = [0.001, *([0.05] * PASSES)]
    assert fastest(bundle) == ("openvino", "bf16")


def test_the_shortest_of_its_passes_counts(machine: Machine, bundle: Bundle) -> None:
    machine.seconds["onnxruntime", "int8"] = [1.0, 0.2, 0.2, 0.02, 0.2, 0.2]
    assert fastest(bundle) == ("onnxruntime", "int8")


def test_a_pass_is_of_about_a_thousand_tokens_in_the_models_own_size(
    machine: Machine, bundle: Bundle
) -> None:
    fastest(bundle)
    assert len(machine.passes) == (1 + PASSES) * len(ON_CPUS)
    (shape,) = {shape for shape, _ in machine.passes}
    batch, channels, *size = shape
    tokens = 1 + tiny.GRID[0] * tiny.GRID[1]
    assert (channels, *size) == (4, *tiny.SIZE)
    assert TOKENS - tokens < batch * tokens <= TOKENS == 1024
    assert all({*names} == {"cls", "patches"} for _, names in machine.passes)


def test_of_a_large_model_there_are_few_passes(machine: Machine, bundle: Bundle) -> None:
    """One, where it takes more than a second, and the one that does not count."""
    assert SECONDS == 1
    for run in ON_CPUS:
        machine.seconds[run] = [9.0, 3.0]
    machine.seconds["openvino", "int8"] = [9.0, 0.6, 0.6]
    assert fastest(bundle) == ("openvino", "int8")


def test_one_picture_is_the_least(machine: Machine, bundle: Bundle) -> None:
    large = {"size": (14 * 40, 14 * 40)}
    preprocessing = bundle.manifest.preprocessing.model_copy(update=large)
    manifest = bundle.manifest.model_copy(update={"preprocessing": preprocessing})
    fastest(Bundle(bundle.path, manifest))
    assert {shape for shape, _ in machine.passes} == {(1, 4, *large["size"])}


def test_a_model_is_gone_before_the_next_one_starts(
    machine: Machine, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, own_garbage: None
) -> None:
    started: list[weakref.ref[Model]] = []

    def start(*arguments: Any, **options: Any) -> Model:
        gc.collect()
        assert [each() for each in started] == [None] * len(started)
        model = machine.start(*arguments, **options)
        started.append(weakref.ref(model))
        return model

    monkeypatch.setattr(module, "start", start)
    fastest(bundle)
    assert len(started) == len(ON_CPUS)


def test_threads_are_those_of_the_run_to_come(machine: Machine, bundle: Bundle) -> None:
    fastest(bundle, threads=3)
    assert [options for _, options in machine.started] == (
        [{"threads": 3, "device": None}] * len(ON_CPUS)
    )
