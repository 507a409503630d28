"""Who waits for the plan that another builds, and who need not."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tensorrt_double import Double

from clsspec_serve.engines.tensorrt import plans as plans_module
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine

from .conftest import Inputs, Right, built


def test_who_waits_for_another_process_finds_its_plan(
    graph: Path, double: Double, inputs: Inputs, right: Right, caplog: pytest.LogCaptureFixture
) -> None:
    """Two engines have locks of their own, as two processes do."""
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(10)

    double.slow = slow
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(right, TensorRtEngine(graph), inputs())
        assert begun.wait(10)
        two = pool.submit(right, TensorRtEngine(graph), inputs())
        while "tensorrt: waits for another build to end" not in caplog.messages:
            assert not two.done()
            time.sleep(0.005)
        go_on.set()
        one.result()
        two.result()
    assert built(double) == 1


def test_nobody_waits_whose_plan_is_there(
    graph: Path, double: Double, kept: Path, inputs: Inputs, right: Right
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go_on.wait(10)

    double.slow = slow
    engine = TensorRtEngine(graph)
    right(engine, inputs())
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(engine.run, inputs(2, (1, 1)), ["cls"])
        assert begun.wait(10)
        right(engine, inputs(3))
        right(TensorRtEngine(graph), inputs(4))
        assert not other.done()
        go_on.set()
        other.result()


def test_where_there_are_no_locks_it_goes_on_without(
    graph: Path, double: Double, inputs: Inputs, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(plans_module.fcntl, "flock", none)
    right(TensorRtEngine(graph), inputs())
    right(TensorRtEngine(graph), inputs())
    assert built(double) == 1
