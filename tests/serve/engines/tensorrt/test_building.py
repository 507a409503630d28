"""What a plan is built from, and with what."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from onnx import helper
from tensorrt_double import Double

from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.tensorrt.buckets import bucket_of
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.memory import pool_of
from clsspec_serve.engines.tensorrt.plans import TIMINGS
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError

from .conftest import Inputs, Right


def cannot(engine: TensorRtEngine, inputs: Inputs) -> str:
    with pytest.raises(EngineError) as info:
        engine.run(inputs(), ["cls"])
    message = str(info.value)
    assert message.startswith("tensorrt cannot build ")
    assert "\n" not in message
    return message


def test_types_are_the_graphs_own_and_fp32_is_not_tf32(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    """TensorRT 10 has a flag for the first, 11 has nothing else; a difference of 2**-11 shows."""
    right(TensorRtEngine(graph), inputs())
    (network,) = double.networks
    assert network.flags == (0 if double.new else 2)
    (plan,) = graph.parent.glob("engines/*/*.plan")
    assert not json.loads(plan.read_bytes().partition(b"\n")[0])["tf32"]


def test_a_profile_is_of_one_size_and_fastest_at_the_largest_batch(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    TensorRtEngine(graph, largest=5).run(inputs(2, (3, 1)), ["cls"])
    (plan,) = graph.parent.glob("engines/*/*.plan")
    profile = json.loads(plan.read_bytes().partition(b"\n")[0])["profile"]
    assert profile == {
        "pixels": [[1, 4, 42, 14], [5, 4, 42, 14], [5, 4, 42, 14]],
        "position": [[3, 1, 4]] * 3,
    }


def test_weights_beside_the_graph_are_found(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    tiny.save_with_external_weights(graph)
    right(TensorRtEngine(graph), inputs())


def test_why_it_cannot_be_built_is_said(
    graph: Path, double: Double, inputs: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    double.cannot_build = "Error Code 10:\n no implementation for node /blocks.0/attn"
    assert cannot(TensorRtEngine(graph), inputs).endswith(
        f"{graph} for pixels 4x28x42, position 2x3x4 in batches of 1 to 8: "
        "Error Code 10: no implementation for node /blocks.0/attn"
    )
    double.cannot_build, double.profiles = "", False
    assert cannot(TensorRtEngine(graph), inputs).endswith(" are no shapes for it")
    graph.write_bytes(b"no graph\n" * 9)
    assert "ModelImporter: " in cannot(TensorRtEngine(graph), inputs)
    assert capfd.readouterr() == ("", "")


def test_what_does_not_start_is_said(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    """The bindings raise an error of their own then."""
    double.starts = False
    message = cannot(TensorRtEngine(graph), inputs)
    assert message.endswith("factory function returned nullptr; CUDA initialization failure")
    double.starts = True
    right(TensorRtEngine(graph), inputs())
    (plan,) = graph.parent.glob("engines/*/*.plan")
    double.starts = False
    with pytest.raises(EngineError, match=r"^tensorrt cannot load a plan for .*: CUDA init"):
        Plan(double, pool_of(0), plan.read_bytes(), bucket_of({"cls": (1, 4)}, 8), "fp32")


def test_an_attention_without_a_kernel_of_its_own_is_built_all_the_same(
    graph: Path, double: Double
) -> None:
    """As all in fp32, which the parser would not have."""
    shape = ["batch", 2, 5, 8]
    named = [helper.make_tensor_value_info(name, 1, shape) for name in "qkv"]
    out = helper.make_tensor_value_info("out", 1, shape)
    node = helper.make_node("Attention", ["q", "k", "v"], ["out"])
    made = helper.make_graph([node], "attention", named, [out])
    opset = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=10), graph)
    values = np.random.default_rng(0).standard_normal((3, 3, 2, 5, 8), np.float32)
    given = dict(zip("qkv", values, strict=True))
    found = here(TensorRtEngine(graph).run(given, ["out"])["out"])
    weights = np.exp(given["q"] @ given["k"].swapaxes(-1, -2) / np.sqrt(8))
    expected = weights / weights.sum(-1, keepdims=True) @ given["v"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    (network,) = double.networks
    assert [each.decomposable for each in network.attentions] == [True]


def test_a_graph_that_is_not_there_is_said(graph: Path, double: Double) -> None:
    graph.unlink()
    with pytest.raises(EngineError) as info:
        TensorRtEngine(graph)
    assert str(info.value) == f"tensorrt cannot load {graph}: No such file or directory"


def test_a_shape_that_the_graph_cannot_have_is_said(graph: Path, double: Double) -> None:
    given = {
        "pixels": np.zeros((1, 3, *tiny.SIZE), np.uint8),
        "position": tiny.POSITIONS,
    }
    with pytest.raises(EngineError, match=r"input pixels: static dimensions differ$"):
        TensorRtEngine(graph).run(given, ["cls"])
    given["pixels"] = np.zeros((1, 4 * 28 * 42), np.uint8)
    with pytest.raises(EngineError, match=r"input pixels has no shapes in the profile$"):
        TensorRtEngine(graph).run(given, ["cls"])


def test_what_took_time_once_is_not_timed_again(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    for size in ((2, 3), (1, 1), (2, 3)):
        for plan in graph.parent.glob("engines/*/*.plan"):
            plan.unlink()
        right(TensorRtEngine(graph), inputs(1, size))
    assert double.timed == [True, True, False]


@pytest.mark.parametrize("content", [b"damaged", b'["sm75", ["kernel"]]'])
def test_timings_that_are_of_no_use_are_replaced(
    graph: Path, double: Double, inputs: Inputs, right: Right, content: bytes
) -> None:
    timings = TensorRtEngine(graph).folder / TIMINGS
    timings.parent.mkdir(parents=True)
    timings.write_bytes(content)
    right(TensorRtEngine(graph), inputs())
    architecture, kernels = json.loads(timings.read_bytes())
    assert (architecture, len(kernels)) == ("sm90", 1)


def test_a_build_is_announced_with_its_reason(
    graph: Path, double: Double, inputs: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    engine = TensorRtEngine(graph)
    assert caplog.messages == []
    engine.run(inputs(), ["cls"])
    begun, ended = caplog.messages
    assert begun == (
        "tensorrt: builds a plan of model.onnx in fp32 for pixels 4x28x42, position 2x3x4 in "
        "batches of 1 to 8 on NVIDIA Double 9000 (cuda:0), which can take minutes: there is none "
        "yet"
    )
    assert ended == "tensorrt: built in 0 s: 0 % of 11 layers in half precision, 0 fused attentions"
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    caplog.clear()
    engine.run(inputs(5), ["cls"])
    TensorRtEngine(graph).run(inputs(), ["cls"])
    assert caplog.messages == []


def test_graphs_share_no_plans(
    graph: Path, double: Double, inputs: Inputs, right: Right, tmp_path: Path
) -> None:
    """A copy of a bundle takes its plans with it."""
    right(TensorRtEngine(graph), inputs())
    other = tmp_path / "copy"
    shutil.copytree(graph.parent, other)
    right(TensorRtEngine(other / graph.name), inputs())
    assert double.log.count("build") == 1
