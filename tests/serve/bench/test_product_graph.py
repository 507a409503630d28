from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from clsspec_serve.bench.product_graph import Shape, product_graph
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.select import load_engine

SHAPE = Shape(rows=40, width=24, hidden=300)
"""Sides on both sides of 127, beyond which protobuf's numbers take another byte."""


def test_the_bytes_are_an_onnx_model_of_eight_products() -> None:
    model = onnx.load_from_string(product_graph(SHAPE))
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["Mul", *["MatMul"] * 8, "ReduceMax"]
    assert [value.name for value in model.graph.input] == ["scale"]
    assert [value.name for value in model.graph.output] == ["largest"]


def test_its_operations_are_those_that_shape_inference_counts() -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(product_graph(SHAPE)))
    values = [*model.graph.value_info, *model.graph.output]
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }
    weights = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    flops = 0
    for node in model.graph.node:
        if node.op_type == "MatMul":
            (rows, inner), (_, columns) = shapes[node.input[0]], weights[node.input[1]]
            assert weights[node.input[1]][0] == inner
            flops += 2 * rows * inner * columns
    assert flops == SHAPE.flops == 2 * 8 * 40 * 24 * 300


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_compute_all_of_it(engine: EngineName, tmp_path: Path) -> None:
    content = product_graph(SHAPE)
    tensors = onnx.load_from_string(content).graph.initializer
    x, a, b = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in tensors)
    (tmp_path / "products.onnx").write_bytes(content)
    loaded = load_engine(tmp_path / "products.onnx", engine=engine)
    for scale in (1.0, -3.0):
        expected = (scale * x @ np.linalg.matrix_power(a @ b, 4)).max()
        found = loaded.run({"scale": np.array([scale], np.float32)}, ["largest"])["largest"]
        assert found.shape == (1, 1)
        assert here(found).item() == pytest.approx(expected, rel=1e-4)


OPERATORS = {
    "fp16": ["Mul", "Cast", *["MatMul"] * 8, "Cast", "ReduceMax"],
    "bf16": ["Mul", "Cast", *["MatMul"] * 8, "Cast", "ReduceMax"],
    "int8": [
        "Mul",
        *["DequantizeLinear"] * 2,
        *["QuantizeLinear", "DequantizeLinear", "MatMul"] * 8,
        "ReduceMax",
    ],
}
ENGINES: dict[str, EngineName] = {"fp16": "onnxruntime", "bf16": "openvino", "int8": "openvino"}


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_below_fp32_all_products_take_that(precision: Precision, tmp_path: Path) -> None:
    content = product_graph(SHAPE, precision)
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == OPERATORS[precision]
    kind = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}.get(
        precision, onnx.TensorProto.INT8
    )
    large = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert [tensor.data_type for tensor in large] == [onnx.TensorProto.FLOAT, kind, kind]
    (tmp_path / "products.onnx").write_bytes(content)
    loaded = load_engine(
        tmp_path / "products.onnx",
        engine=ENGINES[precision],
        precision="int8" if precision == "int8" else "fp32",
    )
    given = {"scale": np.ones(1, np.float32)}
    whole = onnx.load_from_string(product_graph(SHAPE)).graph.initializer
    x, a, b = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in whole)
    expected = (x @ np.linalg.matrix_power(a @ b, 4)).max()
    found = here(loaded.run(given, ["largest"])["largest"]).item()
    assert found == pytest.approx(expected, rel=0.001 if precision == "fp16" else 0.04)


def test_values_stay_of_the_order_of_one() -> None:
    tensors = onnx.load_from_string(product_graph(Shape(64, 256, 512))).graph.initializer
    x, a, b = (numpy_helper.to_array(tensor) for tensor in tensors)
    deviation = (x @ np.linalg.matrix_power(a @ b, 4)).std()
    assert 0.1 < deviation < 10
    assert len({*x.ravel().tolist()}) > 0.9 * x.size
