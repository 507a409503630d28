"""Which plans are kept, and which of them are taken again."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from tensorrt_double import GPUS, Double

from clsspec_serve.engines import gpus as gpus_module
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.tensorrt import plans as plans_module
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.plans import PlanManifest, digest
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError, OutputError

from .conftest import NAME, Inputs, Right, built, folder


def accept(plan: Plan) -> None:
    """Take any."""


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
