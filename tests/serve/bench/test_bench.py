from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_bundle as tiny
from bench_bundle import PICTURE, make_quick

from clsspec_serve import loading
from clsspec_serve.bench import bench as module
from clsspec_serve.bench.asked import Case, runners
from clsspec_serve.bench.bench import Effort, bench
from clsspec_serve.bench.report import Report
from clsspec_serve.bench.rounds import Work
from clsspec_serve.bundle import Bundle, open_bundle
from clsspec_serve.choices import Precision
from clsspec_serve.engines.protocol import Engine, Value, Values
from clsspec_serve.errors import EngineError

ONE = Case(tiny.SIZE, 1)
TWO = Case((14, 28), 2)
ORT = ("onnxruntime", "fp32")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    make_quick(monkeypatch)


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture
def twin(tmp_path: Path) -> Bundle:
    return open_bundle(tiny.write_tiny_bundle(tmp_path / "twin"))


def measured(bundle: Bundle, asked: Sequence[Case], **options: Any) -> Report:
    chosen = options.pop("chosen", [ORT])
    effort = Effort(rounds=options.pop("rounds", 2))
    return bench(bundle, chosen, asked, PICTURE.read_bytes(), effort=effort, **options)


class Spy:
    """Engines that tell who ran, on what, and what they were asked for."""

    def __init__(self, load: Callable[..., Engine]) -> None:
        self.load = load
        self.options: list[dict[str, Any]] = []
        self.ran: list[tuple[str, tuple[int, ...], tuple[str, ...]]] = []

    def __call__(self, graph: Path, **options: Any) -> Engine:
        self.options.append(options)
        engine = self.load(graph, **options)
        run = engine.run

        def spied(inputs: Values, outputs: Sequence[str]) -> Mapping[str, Value]:
            first = next(iter(inputs.values()))
            self.ran.append((graph.parent.name, first.shape, tuple(outputs)))
            return run(inputs, outputs)

        engine.run = spied  # type: ignore[method-assign]  # what a spy does
        return engine


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy(loading.load_engine)
    monkeypatch.setattr(loading, "load_engine", spy)
    return spy


def test_the_model_and_its_twin_run_one_after_the_other_in_every_round(
    bundle: Bundle, twin: Bundle, spy: Spy
) -> None:
    measured(bundle, [ONE, TWO], twin=twin, rounds=2)
    ran = [(name, shape) for name, shape, _ in spy.ran]
    one, two = (1, 4, 28, 42), (2, 4, 14, 28)
    forward = [("tiny", one), ("twin", one), ("tiny", two), ("twin", two)]
    assert ran[-8:] == forward + forward[::-1]


def test_what_is_asked_for_is_the_last_layers_features_and_no_more(
    bundle: Bundle, spy: Spy
) -> None:
    measured(bundle, [ONE])
    assert {outputs for _, _, outputs in spy.ran} == {("cls", "patches")}


def test_threads_are_those_of_models_and_products(
    bundle: Bundle, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    products = Spy(module.load_engine)
    monkeypatch.setattr(module, "load_engine", products)
    report = measured(bundle, [ONE], threads=1)
    assert spy.options
    assert products.options
    assert {options["threads"] for options in spy.options + products.options} == {1}
    assert report.machine.threads == 1


def test_numbers_are_made_of_the_times_that_were_measured(
    bundle: Bundle, twin: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With times that are told: 2 s the model, 1 s its twin, 4 s the products, in each case."""
    works = 0

    def told(groups: Mapping[object, Sequence[Work]], **_: object) -> dict[object, Any]:
        nonlocal works
        for key, group in groups.items():
            works += len(group)
            assert len(group) == (2 if isinstance(key, Case) else 1)
        seconds = {
            key: [2.0 * key.batch, 1.0 * key.batch] if isinstance(key, Case) else [4.0]
            for key in groups
        }
        return {key: [[[each], [each]] for each in times] for key, times in seconds.items()}

    monkeypatch.setattr(module, "measure", told)
    report = measured(bundle, [ONE, TWO], twin=twin)
    assert works > 4
    for row, case in zip(report.rows, (ONE, TWO), strict=True):
        assert (row.size, row.batch) == (case.size, case.batch)
        assert row.times.runs == [2 * case.batch] * 2
        assert row.twin is not None
        assert row.twin.runs == [case.batch] * 2
        assert row.images_per_second == 0.5
        assert row.gflop == case.gflop(bundle.manifest.architecture)
        assert row.ceiling is not None
        rows, width, hidden = row.ceiling.shape
        assert row.ceiling.flops == 16 * rows * width * hidden / 4
        assert row.share == pytest.approx(1e9 * row.gflop / 2 / row.ceiling.flops)


def test_the_ceiling_is_the_best_engines(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"onnxruntime": 4.0, "openvino": 1.0}

    def told(groups: Mapping[Any, Sequence[Work]], **_: object) -> dict[object, Any]:
        return {key: [[[seconds.get(key, 1.0)]] for _ in works] for key, works in groups.items()}

    monkeypatch.setattr(module, "measure", told)
    (row,) = measured(bundle, [ONE]).rows
    assert row.engine == "onnxruntime"
    assert row.ceiling is not None
    assert row.ceiling.engine == "openvino"


def test_a_real_report_has_a_row_for_each_engine_precision_and_case(bundle: Bundle) -> None:
    chosen = runners(bundle.manifest, None, None)
    report = measured(bundle, [ONE, TWO], chosen=chosen, rounds=4)
    ran = [
        name for name in chosen if name not in [(f.engine, f.precision) for f in report.failures]
    ]
    assert ran
    assert [(row.engine, row.precision, row.size, row.batch) for row in report.rows] == [
        (*name, case.size, case.batch) for name in ran for case in (ONE, TWO)
    ]
    for row in report.rows:
        facts = row.to_dict()
        assert facts["rounds"] == 4
        assert facts["latency_ms"]["p50"] > 0
        assert facts["images_per_second"] > 0
        assert facts["ceiling_share"] > 0
        assert facts["twin_ratio"] is None
    assert [each.shown for each in report.preprocessing] == [(28, 42), (14, 28)]
    assert "onnxruntime" in report.machine.versions
    assert report.machine.cores >= 1
    assert report.seconds > 0


# What does not run


def failing(load: Callable[..., Engine], precision: Precision) -> Callable[..., Engine]:
    def refuse(graph: Path, **options: Any) -> Engine:
        if options["precision"] == precision:
            raise EngineError("no such instructions")
        return load(graph, **options)

    return refuse


def test_an_engine_that_does_not_load_does_not_end_the_others(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_engine", failing(loading.load_engine, "bf16"))
    chosen: list[Any] = [("openvino", "bf16"), ORT]
    report = measured(bundle, [ONE], chosen=chosen)
    assert [(row.engine, row.precision) for row in report.rows] == [ORT]
    (failure,) = report.failures
    assert (failure.engine, failure.precision) == ("openvino", "bf16")
    assert failure.reason == "no such instructions"


def test_an_engine_that_fails_while_it_runs_does_not_either(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = loading.load_engine

    def tired(graph: Path, **options: Any) -> Engine:
        engine = load(graph, **options)

        def run(inputs: Values, outputs: Sequence[str]) -> Mapping[str, Value]:
            raise EngineError("out of memory")

        if options["engine"] == "onnxruntime":
            engine.run = run  # type: ignore[method-assign]  # the fault that is planted
        return engine

    monkeypatch.setattr(loading, "load_engine", tired)
    report = measured(bundle, [ONE], chosen=[ORT, ("openvino", "fp32")])
    assert [row.engine for row in report.rows] == ["openvino"]
    assert [failure.reason for failure in report.failures] == ["out of memory"]


def test_where_no_products_run_the_share_is_not_known(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_engine", failing(module.load_engine, "fp32"))
    (row,) = measured(bundle, [ONE]).rows
    assert row.ceiling is None
    assert row.share is None
    assert row.images_per_second > 0
