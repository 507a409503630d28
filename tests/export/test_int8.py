from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import products, proto
from onnx import NodeProto, TensorProto, numpy_helper
from standins.backbones import PHOTOGRAPHS, Written

from clsspec_export.calibration import calibration_inputs
from clsspec_export.int8 import quantize
from clsspec_export.reference import Reference
from clsspec_serve.engines.select import load_engine
from clsspec_serve.errors import ImageError
from clsspec_serve.parity import MIN_COSINE, compare


class Graph:
    """Of a quantized file, who makes what, and the weights."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.makers: dict[str, NodeProto] = {name: n for n in graph.node for name in n.output}
        self.weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.products = products(graph)
        self.nodes = graph.node

    def weight_of(self, product: NodeProto) -> NodeProto | None:
        """What the second input of a product comes through, None for a weight as it is."""
        return self.makers.get(product.input[1])


@pytest.fixture(scope="module")
def graph(written: Written) -> Graph:
    return Graph(written.folder / "model.int8.onnx")


def quantized(graph: Graph) -> list[NodeProto]:
    return [node for node in graph.products if graph.weight_of(node) is not None]


def test_all_products_with_weights_but_the_patch_embedding_are_in_int8(graph: Graph) -> None:
    first, *others = graph.products
    assert graph.weight_of(first) is None
    assert graph.weights[first.input[1]].dtype == np.float32
    assert first.input[1] in graph.weights
    # Two blocks: QKV as two products and as one, then three more in each.
    assert quantized(graph) == others
    assert len(others) == 2 + 1 + 2 * 3
    assert not {node.op_type for node in graph.nodes} & {"QLinearMatMul", "MatMulInteger"}


def test_each_is_between_quantized_values_of_the_standard_operators(graph: Graph) -> None:
    for node in quantized(graph):
        through = [graph.makers[name] for name in node.input]
        assert [each.op_type for each in through] == ["DequantizeLinear", "DequantizeLinear"]
        assert graph.makers[through[0].input[0]].op_type == "QuantizeLinear"
    assert {node.domain for node in graph.nodes} == {""}


def test_weights_are_symmetric_with_a_scale_for_each_column(graph: Graph) -> None:
    for node in quantized(graph):
        through = graph.makers[node.input[1]]
        stored, scale, zero = (graph.weights[name] for name in through.input)
        assert stored.dtype == zero.dtype == np.int8
        assert not zero.any()
        assert scale.shape == (stored.shape[1],)
        (axis,) = (each.i for each in through.attribute if each.name == "axis")
        assert axis in (1, -1)
        assert len({*scale.tolist()}) > scale.size / 2
        # The largest of each column is the end of the range.
        assert (np.abs(stored.astype(int)).max(axis=0) == 127).all()


def test_what_goes_into_a_product_has_one_symmetric_scale(graph: Graph) -> None:
    for node in quantized(graph):
        through = graph.makers[node.input[0]]
        scale, zero = (graph.weights[name] for name in through.input[1:])
        assert scale.shape == zero.shape == ()
        assert (zero.dtype, int(zero)) == (np.int8, 0)


def test_what_comes_out_of_a_product_is_not_rounded(graph: Graph) -> None:
    out = {node.output[0] for node in graph.products}
    rounded = [node.input[0] for node in graph.nodes if node.op_type == "QuantizeLinear"]
    assert len(rounded) == len({graph.makers[node.input[0]].input[0] for node in quantized(graph)})
    assert not out & {*rounded}


def test_the_weights_are_those_of_the_model(written: Written, graph: Graph) -> None:
    whole = written.checkpoint.model.blocks[1].mlp.fc1.weight.detach().numpy().T
    for node in quantized(graph):
        stored, scale, _ = (graph.weights[n] for n in graph.makers[node.input[1]].input)
        if stored.shape == whole.shape and np.allclose(stored * scale, whole, atol=scale.max()):
            return
    pytest.fail("no product has that weight")


def test_no_value_of_the_pictures_is_outside_of_the_ranges(
    written: Written, graph: Graph, tmp_path: Path
) -> None:
    """The range of what each product takes is that of the least and largest value seen."""
    named = {graph.makers[graph.makers[n.input[0]].input[0]].input[0]: n for n in quantized(graph)}
    model = onnx.load(written.graph)  # of the same form
    there = {name for node in model.graph.node for name in node.output}
    seen = [name for name in named if name in there]
    assert len(seen) >= 6
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in seen)
    onnx.save(model, tmp_path / "seen.onnx")
    engine = load_engine(tmp_path / "seen.onnx", engine="onnxruntime", threads=1)
    largest = dict.fromkeys(seen, 0.0)
    for inputs in calibration_inputs(written.checkpoint, PHOTOGRAPHS):
        for name, value in engine.run(inputs, seen).items():
            largest[name] = max(largest[name], float(np.abs(value).max()))
    for name in seen:
        scale = graph.weights[graph.makers[named[name].input[0]].input[1]]
        assert 127 * float(scale) == pytest.approx(largest[name], rel=0.01), name


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_both_engines_are_within_the_tolerance_on_photographs(
    written: Written, engine: Any
) -> None:
    loaded = load_engine(
        written.folder / "model.int8.onnx", engine=engine, precision="int8", threads=1
    )
    reference = Reference(written.checkpoint, written.outputs)
    lowest = 1.0
    for inputs in calibration_inputs(written.checkpoint, PHOTOGRAPHS):
        expected = reference.sample(inputs["pixels"]).outputs
        found = loaded.run(inputs, [*expected])
        size = inputs["pixels"].shape[2:]
        each = [compare(n, size, np.asarray(found[n]), value) for n, value in expected.items()]
        assert all(difference.within("int8") for difference in each)
        lowest = min(lowest, *(difference.cosine for difference in each))
    assert MIN_COSINE["int8"] < lowest < 0.99999, "in fp32 it would be closer"


def test_inputs_outputs_and_norms_are_those_of_fp32(written: Written, graph: Graph) -> None:
    path = written.folder / "model.int8.onnx"
    assert [*proto(path).graph.input] == [*proto(written.graph).graph.input]
    assert [*proto(path).graph.output] == [*proto(written.graph).graph.output]
    norms = [node for node in graph.nodes if node.op_type == "LayerNormalization"]
    assert {graph.weights[node.input[1]].dtype for node in norms} == {np.dtype(np.float32)}
    onnx.checker.check_model(path)
    assert path.with_name("model.int8.onnx.data").stat().st_size < 0.5 * (
        written.graph.with_name("model.onnx.data").stat().st_size
    )


def test_matrices_are_stored_once_as_bytes(graph: Graph) -> None:
    matrices = [each for each in graph.weights.values() if each.ndim == 2]
    assert [each.dtype for each in matrices if each.dtype != np.int8] == [np.float32]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A graph of two products that is quantized in an instant."""
    from onnx import helper

    generator = np.random.default_rng(0)
    first, second = (generator.standard_normal((64, 64), np.float32) for _ in range(2))
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["floats", "first"], ["middle"], name="first_product"),
        helper.make_node("MatMul", ["middle", "second"], ["out"], name="second_product"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 64])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def rows(count: int = 2) -> Any:
    generator = np.random.default_rng(1)
    return ({"pixels": generator.integers(0, 256, (1, 64), np.uint8)} for _ in range(count))


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_its_weights_can_be_read_by_whoever_may_read_the_graph(
    small: Path, tmp_path: Path, mask: int
) -> None:
    before = os.umask(mask)
    try:
        quantize(small, tmp_path / "int8.onnx", rows())
    finally:
        os.umask(before)
    modes = [
        stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in ("int8.onnx", "int8.onnx.data")
    ]
    assert modes == [0o666 & ~mask] * 2


def test_the_first_product_alone_is_left(small: Path, tmp_path: Path) -> None:
    quantize(small, tmp_path / "int8.onnx", rows())
    found = Graph(tmp_path / "int8.onnx")
    assert [node.name for node in quantized(found)] == ["second_product"]


def test_nothing_is_logged_or_printed_and_logging_is_as_before(
    small: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    logging.disable(logging.DEBUG)
    try:
        quantize(small, tmp_path / "int8.onnx", rows())
        assert logging.root.manager.disable == logging.DEBUG
    finally:
        logging.disable(logging.NOTSET)
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


def test_a_broken_picture_is_named_and_nothing_is_left_behind(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    for folder in (scratch, out):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    pictures = [PHOTOGRAPHS[0], tmp_path / "bad.jpg"]
    inputs = calibration_inputs(written.checkpoint, pictures)
    with pytest.raises(ImageError, match=f"^{tmp_path}/bad.jpg: "):
        quantize(written.graph, out / "model.onnx", inputs)
    assert [*out.iterdir()] == [*scratch.iterdir()] == []
    assert logging.root.manager.disable == logging.NOTSET
