"""Runs that CUDA replays: which are, that they are right, and what becomes of the others."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle as tiny
from standins import tensorrt_engine
from tensorrt_double import Double

from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.tensorrt import captures
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine

from .conftest import Inputs, Right


def steps(double: Double) -> str:
    """What was run since the last time: `run`s, of which some were captured, and `replay`s."""
    words = [each for each in double.cuda.log if each in ("capture", "replay")]
    words += [each for each in double.log if each == "run"]
    double.cuda.log.clear()
    double.log.clear()
    return " ".join(sorted(words))


def test_what_comes_again_with_the_same_memory_is_replayed(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    engine = TensorRtEngine(graph)
    seen = []
    for number in range(4):
        right(engine, inputs(3) | {"pixels": np.full((3, 4, *tiny.SIZE), number, np.uint8)})
        seen.append(steps(double))
    assert seen == ["run", "capture replay run", "replay", "replay"]


def test_other_shapes_begin_anew(graph: Path, double: Double, inputs: Inputs, right: Right) -> None:
    engine = TensorRtEngine(graph)
    seen = []
    for batch in (3, 3, 5, 5, 3, 3, 3):
        right(engine, inputs(batch))
        seen.append(steps(double))
    twice = ["run", "capture replay run"]
    assert seen == [*twice, *twice, *twice, "replay"]
    assert len(double.cuda.graphs) == 1


def test_other_memory_is_run_and_kept_apart(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    engine = TensorRtEngine(graph)
    kept = [engine.keep(inputs()["position"]) for _ in range(captures.MOST + 2)]
    for _ in range(3):
        for position in kept[:2]:
            found = engine.run(inputs() | {"position": position}, ["cls"])["cls"]
            expected = tiny.features(inputs()["pixels"], inputs()["position"])["cls"]
            np.testing.assert_allclose(here(found), expected, rtol=2e-6)
    assert len(double.cuda.graphs) == 2
    for position in kept:
        for _ in range(2):
            engine.run(inputs() | {"position": position}, ["cls"])
    assert len(double.cuda.graphs) <= captures.MOST
    # The first of all was given back, and is no less right for that.
    steps(double)
    engine.run(inputs() | {"position": kept[0]}, ["cls"])
    assert steps(double) == "run"


def test_an_idle_run_of_the_same_shapes_is_taken_first(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    """Of batches that come by turns each keeps what was captured for it."""
    engine = TensorRtEngine(graph)
    (plan,) = engine.run(inputs(), ["cls"]) and engine.plans
    shapes = [{name: value.shape for name, value in inputs(batch).items()} for batch in (2, 3)]
    lanes = [plan._lane(each) for each in shapes]
    for lane, batch in zip(lanes, (2, 3), strict=True):
        lane.run(inputs(batch), ["cls"])
    plan._idle += lanes
    for _ in range(2):
        steps(double)
        for batch in (2, 3, 2, 3, 2, 3):
            engine.run(inputs(batch), ["cls"])
    assert steps(double) == "replay replay replay replay replay replay"


@pytest.mark.parametrize("function", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_where_nothing_can_be_captured_all_is_run(
    graph: Path,
    double: Double,
    inputs: Inputs,
    right: Right,
    function: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    double.cuda.fails[function] = double.cuda.cudaError_t.cudaErrorStreamCaptureUnsupported
    engine = TensorRtEngine(graph)
    with caplog.at_level(logging.WARNING, "clsspec.engine"):
        for _ in range(4):
            right(engine, inputs())
    assert steps(double) == "run run run run run"
    assert [record.getMessage() for record in caplog.records] == [
        "tensorrt: runs are not captured: CUDA failed: error 900 of the double"
    ]


def test_what_tensorrt_refuses_to_capture_is_run(
    graph: Path,
    double: Double,
    inputs: Inputs,
    right: Right,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = TensorRtEngine(graph)
    execute = tensorrt_engine.Context.execute_async_v3

    def refuses(context: tensorrt_engine.Context, stream: int) -> bool:
        return double.cuda.streams[stream].captured is None and execute(context, stream)

    monkeypatch.setattr(tensorrt_engine.Context, "execute_async_v3", refuses)
    for _ in range(4):
        right(engine, inputs())
    assert steps(double) == "run run run run"
    assert "runs are not captured: the run was not begun" in caplog.text
