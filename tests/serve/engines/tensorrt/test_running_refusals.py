"""What does not fit, finds no room or fails on a GPU: one line says so, and the engine goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from standins import tensorrt_engine
from tensorrt_double import Double

from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.errors import EngineError

from .conftest import NAMES, Inputs, Right


def refused(engine: TensorRtEngine, given: dict[str, Any], outputs: list[str]) -> str:
    with pytest.raises(EngineError) as info:
        engine.run(given, outputs)
    message = str(info.value)
    assert message.startswith("tensorrt failed: ")
    assert "\n" not in message
    return message


def float64(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float64)


def test_what_does_not_fit_is_one_line_and_the_engine_goes_on(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    engine = TensorRtEngine(graph)
    given = inputs()
    right(engine, given)
    assert "nonsense; it has cls, patches, cls_0" in refused(engine, given, ["cls", "nonsense"])
    wrong = given | {"position": float64(given["position"])}
    assert refused(engine, wrong, ["cls"]) == (
        "tensorrt failed: position is float64; the graph takes float32"
    )
    one = {"pixels": given["pixels"]}
    with pytest.raises(EngineError, match=r"takes pixels, position, and was given pixels$"):
        engine.run(one, ["cls"])
    assert "these are no inputs of one batch: pixels 0x4x28x42" in refused(
        engine, given | {"pixels": given["pixels"][:0]}, ["cls"]
    )
    assert refused(engine, {}, ["cls"]).endswith("of one batch: none")
    right(engine, given)


def test_a_plan_of_one_size_refuses_another(graph: Path, double: Double, inputs: Inputs) -> None:
    engine = TensorRtEngine(graph)
    engine.run(inputs(), ["cls"])
    (plan,) = engine.plans
    for other in (inputs(9), inputs(2, (3, 2))):
        with pytest.raises(EngineError, match=r"^tensorrt failed: setInputShape: pixels"):
            plan.run(other, ["cls"])
    with pytest.raises(EngineError, match=r"the graph takes .*; it was given pixels$"):
        plan.run({"pixels": inputs()["pixels"]}, ["cls"])


def test_a_full_gpu_gives_what_waits_to_others(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    engine = TensorRtEngine(graph)
    small = [engine.run(inputs(2, (1, 1)), NAMES)]
    held = [engine.run(inputs(), NAMES) for _ in range(30)]
    held.clear()
    double.cuda.capacity = sum(memory.bytes.size for memory in double.cuda.memory.values())
    double.cuda.log.clear()
    small += [engine.run(inputs(2, (1, 1)), NAMES) for _ in range(35)]
    assert double.cuda.log.count("free 768") == 60
    double.cuda.capacity = 0
    with pytest.raises(EngineError) as info:
        engine.run(inputs(2, (1, 1)), NAMES)
    assert str(info.value) == "CUDA failed: error 2 of the double"
    double.cuda.capacity = 1 << 40
    right(engine, inputs())


def test_tensorrt_gets_what_waits_too(graph: Path, double: Double, inputs: Inputs) -> None:
    engine = TensorRtEngine(graph)
    held = [engine.run(inputs(), ["cls"]) for _ in range(9)]
    held.clear()
    double.contexts = 0
    message = refused(TensorRtEngine(graph), inputs(), ["cls"])
    assert "could not be allocated" in message
    assert double.cuda.log.count("free 128") == 9


def test_what_cuda_refuses_is_one_line(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    engine = TensorRtEngine(graph)
    found = engine.run(inputs(), ["cls"])["cls"]
    failure = double.cuda.cudaError_t.cudaErrorLaunchFailure
    for name, act in (
        ("cudaStreamSynchronize", lambda: engine.run(inputs(), ["cls"])),
        ("cudaMemcpy", lambda: here(found)),
    ):
        double.cuda.fails[name] = failure
        with pytest.raises(EngineError, match=r"^CUDA failed: error 719 of the double$"):
            act()
        del double.cuda.fails[name]
    right(engine, inputs())


def test_no_room_for_another_run_is_one_line(graph: Path, double: Double, inputs: Inputs) -> None:
    double.contexts = 0
    assert refused(TensorRtEngine(graph), inputs(), ["cls"]) == (
        "tensorrt failed: Requested amount of GPU memory could not be allocated"
    )


@pytest.mark.parametrize(
    ("function", "answer", "words"),
    [
        ("set_tensor_address", False, "pixels cannot be at 0x10000"),
        ("infer_shapes", ["pixels"], "the shapes of pixels are not known"),
        ("execute_async_v3", False, "the run was not begun"),
    ],
)
def test_what_tensorrt_refuses_without_a_word_is_one_line(
    graph: Path,
    double: Double,
    inputs: Inputs,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    answer: object,
    words: str,
) -> None:
    monkeypatch.setattr(tensorrt_engine.Context, function, lambda *_: answer)
    assert refused(TensorRtEngine(graph), inputs(), ["cls"]) == f"tensorrt failed: {words}"


def test_a_graph_whose_outputs_numpy_does_not_have_is_refused(graph: Path, double: Double) -> None:
    kinds = [(TensorProto.FLOAT, "x"), (TensorProto.BFLOAT16, "y")]
    x, y = (helper.make_tensor_value_info(name, kind, ["batch"]) for kind, name in kinds)
    cast = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    opset = [helper.make_opsetid("", 20)]
    made = helper.make_graph([cast], "bf16", [x], [y])
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=10), graph)
    engine = TensorRtEngine(graph)
    assert refused(engine, {"x": np.zeros(2, np.float32)}, ["y"]).startswith(
        "tensorrt failed: y is "
    )
    assert not [*graph.parent.glob("engines/*/*.plan")]


def test_a_gpu_that_is_not_there_is_refused(graph: Path, double: Double) -> None:
    with pytest.raises(EngineError, match=r"^there is no GPU 2; there are NVIDIA Double 9000"):
        TensorRtEngine(graph, device=2)
