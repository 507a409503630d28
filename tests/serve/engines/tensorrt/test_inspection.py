"""The inspector's JSON: as TensorRT 10 and 11 write it, and as it can be without details."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tensorrt_double import Double

from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.inspection import Layers, count

from .conftest import Inputs


def layer(name: str, kind: dict[str, str], **more: str) -> dict[str, Any]:
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 40, 256], **kind}
    return {"Name": name, "LayerType": "kgen", "Inputs": [], "Outputs": [tensor], **more}


def ten(word: str) -> dict[str, str]:
    return {"Format/Datatype": word}


def eleven(word: str) -> dict[str, str]:
    return {"Format": "Row major linear", "Datatype": word}


def test_layers_of_tensorrt_10_are_counted() -> None:
    layers = [
        layer("Reformatting CopyNode", ten("Row major linear FP32")),
        layer(
            "/blocks.0/mlp/fc1/MatMul_myl0_16",
            ten("Half"),
            Metadata="[ONNX Layer: /flash_attn/fc1/MatMul]",
        ),
        layer("/blocks.0/mha/attn/q/MatMul_myl0_3", ten("Row major linear FP16 format")),
        layer(
            "_gemm_mha_v2_myl0_17",
            ten("BFloat16"),
            Metadata="[ONNX Layer: /blocks.0/mha/attn/MatMul]",
        ),
        layer("__myl_Attn_myl0_4", ten("Half"), TacticName="sm90_fmha_v2_flash_bf16"),
        layer("shape", ten("Int64")),
        {"Name": "wait", "LayerType": "wait", "Inputs": [], "Outputs": []},
    ]
    found = count(json.dumps({"Layers": layers, "Bindings": ["pixels"]}))
    assert found == Layers(all=7, floating=5, half=4, attention=2)
    assert str(found) == "80 % of 5 layers in half precision, 2 fused attentions"


@pytest.mark.parametrize("key", ["Datatype", "DataType"])
def test_layers_of_tensorrt_11_are_counted(key: str) -> None:
    kinds = [{"Format": "Row major linear", key: word} for word in ("Float", "BFloat16", "Half")]
    layers = [layer("MatMul", kind) for kind in kinds]
    found = count(json.dumps({"Layers": layers, "I/O Tensors": []}))
    assert found == Layers(all=3, floating=3, half=2, attention=0)


@pytest.mark.parametrize(
    ("text", "all_layers"),
    [
        (json.dumps({"Layers": ["MatMul half", "_gemm_mha_v2"]}), 2),
        (json.dumps({"Layers": [{"Name": "MatMul"}]}), 1),
        (json.dumps({"Layers": [layer("MatMul", {"Format": "Linear"})]}), 1),
        (json.dumps({"Bindings": []}), 0),
        ("no information", 0),
        ("[]", 0),
        ("", 0),
    ],
)
def test_what_tells_no_types_is_said_to(text: str, all_layers: int) -> None:
    found = count(text)
    assert (found.all, found.floating, found.half) == (all_layers, 0, 0)
    assert str(found) == f"{all_layers} layers of which TensorRT tells no types"


def test_a_graph_that_was_cast_is_seen_to_be(
    graph: Path, double: Double, inputs: Inputs, caplog: pytest.LogCaptureFixture
) -> None:
    """Its inputs and outputs are of before; of what is between, all but the first and the last."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["floats"], ["halves"], to=TensorProto.FLOAT16),
        helper.make_node("GlobalAveragePool", ["halves"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["cls"], to=TensorProto.FLOAT),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 4, "H", "W"])
    cls = helper.make_tensor_value_info("cls", TensorProto.FLOAT, ["batch", 4])
    made = helper.make_graph(nodes, "half", [pixels], [cls])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=10), graph)
    engine = TensorRtEngine(graph, precision="fp16")
    assert engine.precision == "fp16"
    engine.run({"pixels": inputs()["pixels"]}, ["cls"])
    (plan,) = engine.plans
    assert plan.precision == "fp16"
    assert plan.layers() == Layers(all=5, floating=5, half=3, attention=0)
    assert "60 % of 5 layers in half precision" in caplog.messages[-1]
    assert [*graph.parent.glob("engines/*/model-fp16-4x28x42-b8-*.plan")]
