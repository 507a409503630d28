"""Which plans are kept, where, and which of them are taken again."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from tensorrt_double import GPUS, Double

import clsspec_serve
from clsspec_serve.engines import gpus as gpus_module
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.tensorrt import plans as plans_module
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.plans import PlanManifest, digest, plans_of
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError, OutputError
from clsspec_serve.models import EMBEDDED

from .conftest import Inputs, Right

NAME = "model-fp32-4x28x42-b8-nvidia-double-9000"


def accept(plan: Plan) -> None:
    """Take any."""


def built(double: Double) -> int:
    return double.log.count("build")


def folder(graph: Path, double: Double) -> Path:
    return graph.parent / "engines" / f"sm90-trt{double.__version__}"


@pytest.fixture
def kept(graph: Path, double: Double, inputs: Inputs) -> Path:
    """The manifest of a plan that was built."""
    TensorRtEngine(graph).run(inputs(), ["cls"])
    return folder(graph, double) / f"{NAME}.json"


def test_a_plan_is_kept_with_what_it_is_of_and_taken_again(
    graph: Path, double: Double, kept: Path, inputs: Inputs, right: Right
) -> None:
    assert sorted(each.name for each in kept.parent.iterdir()) == [
        ".lock",
        f"{NAME}.json",
        f"{NAME}.plan",
        "timing.cache",
    ]
    manifest = PlanManifest.model_validate_json(kept.read_bytes())
    assert manifest.made.model_dump() == {
        "graph": digest(graph),
        "precision": "fp32",
        "architecture": "sm90",
        "gpu": "NVIDIA Double 9000",
        "tensorrt": double.__version__,
        "sizes": (("pixels", (4, 28, 42)), ("position", (2, 3, 4))),
        "largest": 8,
    }
    assert manifest.layers.model_dump() == {"all": 11, "floating": 11, "half": 0, "attention": 0}
    assert not manifest.checked
    engine = TensorRtEngine(graph)
    right(engine, inputs(7))
    assert built(double) == 1
    assert engine.folder == kept.parent


def altered(manifest: Path, **fields: Any) -> None:
    content = json.loads(manifest.read_text())
    for name, value in fields.items():
        (content if name in content else content["made"])[name] = value
    manifest.write_text(json.dumps(content))


def _doubled(graph: Path) -> onnx.ModelProto:
    """The same graph with another factor."""
    model = onnx.load(graph)
    factor = next(each for each in model.graph.initializer if each.name == "scale")
    factor.CopyFrom(onnx.numpy_helper.from_array(np.float32(2), "scale"))
    return model


Change = Callable[[Path, Path], object]
CHANGES: dict[str, Change] = {
    "is of another graph": lambda graph, kept: onnx.save(_doubled(graph), graph),
    "is of another precision: bf16": lambda graph, kept: altered(kept, precision="bf16"),
    "is of another architecture: sm80": lambda graph, kept: altered(kept, architecture="sm80"),
    "is of another gpu: H100": lambda graph, kept: altered(kept, gpu="H100"),
    "is of another tensorrt: 10.3": lambda graph, kept: altered(kept, tensorrt="10.3"),
    "is of another sizes": lambda graph, kept: altered(kept, sizes=[["pixels", [4, 1, 1]]]),
    "is of another largest: 64": lambda graph, kept: altered(kept, largest=64),
    "was changed": lambda graph, kept: kept.with_suffix(".plan").write_bytes(b"plan"),
    "cannot be read: ValidationError": lambda graph, kept: kept.write_text("{"),
    "there is none yet": lambda graph, kept: kept.unlink(),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_a_plan_that_is_not_of_all_that_is_here_is_built_again(
    graph: Path,
    double: Double,
    kept: Path,
    inputs: Inputs,
    caplog: pytest.LogCaptureFixture,
    reason: str,
) -> None:
    CHANGES[reason](graph, kept)
    caplog.clear()
    found = TensorRtEngine(graph).run(inputs(), ["cls"])["cls"]
    factor = 2 if "graph" in reason else 1
    given = inputs()
    expected = factor * tiny.features(given["pixels"], given["position"])["cls"]
    np.testing.assert_allclose(here(found), expected, rtol=2e-6)
    assert built(double) == 2
    assert reason in caplog.messages[0]
    TensorRtEngine(graph).run(inputs(), ["cls"])
    assert built(double) == 2


def test_other_weights_beside_the_same_graph_are_another_graph(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    tiny.save_with_external_weights(graph)
    right(TensorRtEngine(graph), inputs())
    weights = graph.with_name("model.onnx.data")
    factors = np.frombuffer(weights.read_bytes(), np.float32) * 2
    before = graph.read_bytes()
    weights.write_bytes(factors.tobytes())
    assert graph.read_bytes() == before
    found = TensorRtEngine(graph).run(inputs(), ["cls"])["cls"]
    given = inputs()
    expected = 2 * tiny.features(given["pixels"], given["position"])["cls"]
    np.testing.assert_allclose(here(found), expected, rtol=2e-6)


def test_what_tensorrt_itself_refuses_is_built_again(
    graph: Path,
    double: Double,
    kept: Path,
    inputs: Inputs,
    right: Right,
    caplog: pytest.LogCaptureFixture,
) -> None:
    plan = kept.with_suffix(".plan")
    content = plan.read_bytes().replace(double.__version__.encode(), b"9.3.0.1", 1)
    plan.write_bytes(content)
    altered(kept, sha256=hashlib.sha256(content).hexdigest())
    caplog.clear()
    right(TensorRtEngine(graph), inputs())
    assert f"expecting version 9.3.0.1 got {double.__version__}" in caplog.messages[0]
    assert built(double) == 2


def test_gpus_of_one_architecture_have_plans_of_their_own(
    graph: Path, double: Double, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for gpus in (GPUS, (Gpu(0, "NVIDIA Double (80GB)"),), GPUS):
        monkeypatch.setattr(gpus_module, "gpus", lambda found=gpus: found)
        TensorRtEngine(graph).run(inputs(), ["cls"])
    assert built(double) == 2
    assert (folder(graph, double) / "model-fp32-4x28x42-b8-nvidia-double-80gb.plan").is_file()


def test_a_new_plan_is_looked_at_and_refused_ones_are_not_kept(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    seen: list[Plan] = []

    def refuse(plan: Plan) -> None:
        assert (plan.name, plan.precision) == ("tensorrt", "fp32")
        given = inputs(plan.bucket.largest, tiny.GRID)
        found = here(plan.run(given, ["cls"])["cls"])
        expected = tiny.features(given["pixels"], given["position"])["cls"]
        np.testing.assert_allclose(found, expected, rtol=2e-6)
        seen.append(plan)
        raise EngineError("cls at 28x42: cosine 0.9")

    engine = TensorRtEngine(graph, accept=refuse)
    for _ in range(3):
        with pytest.raises(EngineError, match=r"^cls at 28x42: cosine 0\.9$"):
            engine.run(inputs(), ["cls"])
    assert (built(double), len(seen), engine.plans) == (1, 1, ())
    seen.clear()
    gc.collect()
    assert double.cuda.streams == {}, "a plan that was refused is still there"
    assert not [*folder(graph, double).glob("*.plan"), *folder(graph, double).glob("*.json")]
    right(TensorRtEngine(graph, accept=accept), inputs())
    assert built(double) == 2
    assert double.timed == [True, False]


def test_a_plan_that_was_never_looked_at_is_not_taken_by_who_looks(
    graph: Path, double: Double, kept: Path, inputs: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    TensorRtEngine(graph, accept=accept).run(inputs(), ["cls"])
    assert "were never compared" in caplog.messages[0]
    assert built(double) == 2
    assert PlanManifest.model_validate_json(kept.read_bytes()).checked
    for look in (accept, None):
        TensorRtEngine(graph, accept=look).run(inputs(), ["cls"])
    assert built(double) == 2


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


def test_a_plan_that_cannot_be_kept_is_used(
    graph: Path,
    double: Double,
    inputs: Inputs,
    right: Right,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(plans_module, "write_whole", full)
    engine = TensorRtEngine(graph)
    right(engine, inputs())
    right(engine, inputs(3))
    assert built(double) == 1
    warnings = [each.message for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == 2
    for each in warnings:
        assert each.startswith("tensorrt: the plan is used, but not all of it kept: cannot write ")


def test_where_there_are_no_locks_it_goes_on_without(
    graph: Path, double: Double, inputs: Inputs, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(plans_module.fcntl, "flock", none)
    right(TensorRtEngine(graph), inputs())
    right(TensorRtEngine(graph), inputs())
    assert built(double) == 1


def place(graph: Path) -> Path:
    return plans_of(graph, "f" * 64, "sm80", "10.14.1").folder


def test_plans_are_in_the_bundle(graph: Path) -> None:
    """Those of its heads, too."""
    expected = graph.parent / "engines" / "sm80-trt10.14.1"
    assert place(graph) == expected
    assert place(graph.parent / "heads" / "segment.onnx") == expected


def test_plans_of_what_is_not_to_be_written_are_in_the_users_cache(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLSSPEC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here_ = tmp_path / "cache" / "clsspec" / "engines" / ("f" * 16) / "sm80-trt10.14.1"
    assert Path(clsspec_serve.__file__).parent in EMBEDDED.parents
    assert place(EMBEDDED / "model.onnx") == here_
    assert place(EMBEDDED / "heads" / "depth.onnx") == here_
    link = tmp_path / "snapshot" / "model.onnx"
    link.parent.mkdir()
    link.symlink_to(graph)
    assert place(link) == here_
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "own"))
    assert place(link) == tmp_path / "own" / "engines" / ("f" * 16) / "sm80-trt10.14.1"
    monkeypatch.setattr(os, "access", lambda path, mode: path != graph.parent)
    assert tmp_path / "own" in place(graph).parents
    monkeypatch.delenv("CLSSPEC_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert tmp_path / "home" / ".cache" / "clsspec" in place(graph).parents


def test_a_read_only_bundles_plans_are_kept_and_found(
    graph: Path,
    double: Double,
    inputs: Inputs,
    right: Right,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "own"))
    link = tmp_path / "snapshot" / "model.onnx"
    link.parent.mkdir()
    link.symlink_to(graph)
    for _ in range(2):
        right(TensorRtEngine(link), inputs())
    assert built(double) == 1
    assert [each.name for each in link.parent.iterdir()] == ["model.onnx"]
