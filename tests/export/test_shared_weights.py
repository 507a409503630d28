from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import differences, proto, shown
from onnx import GraphProto, TensorProto, helper, numpy_helper
from onnxscript import ir
from standins.backbones import DINOV2, Written, all_outputs, tiny

from clsspec_export.graphs import write_graphs
from clsspec_export.shared_weights import share_weights
from clsspec_export.storage import round_to_fp16
from clsspec_serve.engines.select import load_engine
from clsspec_serve.manifest import Specialization

LARGE = 256
"""Bytes; PyTorch's exporter leaves up to so many inside of a graph."""


@dataclass(frozen=True)
class Stored:
    """Where an initializer's bytes are; `location` is empty for those in the graph."""

    location: str
    offset: int
    length: int


def stored(graph: GraphProto) -> dict[str, Stored]:
    found = {}
    for each in graph.initializer:
        entries = {entry.key: entry.value for entry in each.external_data}
        length = numpy_helper.to_array(each).nbytes if not entries else int(entries["length"])
        place = entries.get("location", ""), int(entries.get("offset", 0))
        found[each.name] = Stored(*place, length)
    return found


def kept_inside(graph: Path) -> list[np.ndarray]:
    """The large weights that are in the graph's own file."""
    places = stored(proto(graph).graph)
    return [
        numpy_helper.to_array(each)
        for each in proto(graph).graph.initializer
        if not places[each.name].location and places[each.name].length > LARGE
    ]


def is_ones(weight: np.ndarray) -> bool:
    """What a norm without weights is written with."""
    return weight.ndim == 1 and bool((weight == 1).all())


def test_the_second_graph_is_small_and_has_no_weights_of_its_own(written: Written) -> None:
    graph = written.folder / "model.openvino.onnx"
    assert not graph.with_name("model.openvino.onnx.data").exists()
    assert graph.stat().st_size < 1.2 * written.graph.stat().st_size
    assert [is_ones(each) for each in kept_inside(graph)] == [True]


def test_every_weight_of_it_is_one_of_the_first_graphs(written: Written) -> None:
    first, second = (
        stored(proto(written.folder / name).graph) for name in ("model.onnx", "model.openvino.onnx")
    )
    outside = {name: each for name, each in second.items() if each.location}
    assert {each.location for each in outside.values()} == {"model.onnx.data"}
    assert {*outside.values()} <= {*first.values()}
    assert len({each.offset for each in outside.values()}) == len(outside) > 20


def arrays(graph: Path) -> list[np.ndarray]:
    """The large weights that the second graph reads, sorted by what is in them."""
    whole = onnx.load(graph).graph.initializer
    found = [numpy_helper.to_array(each) for each in whole]
    large = [each for each in found if each.nbytes > LARGE and not is_ones(each)]
    return sorted(large, key=lambda each: each.tobytes())


def test_both_graphs_read_the_same_weights_from_the_file(written: Written) -> None:
    both = [arrays(written.folder / name) for name in ("model.onnx", "model.openvino.onnx")]
    assert len(both[0]) > 20
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_in_half_precision_are_shared_too(tmp_path: Path) -> None:
    checkpoint = round_to_fp16(tiny(DINOV2, Specialization(qkv_blocks=1)))
    outputs = all_outputs(checkpoint)
    write_graphs(checkpoint, outputs, tmp_path)
    graph = tmp_path / "model.openvino.onnx"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("model.onnx", "model.onnx.data", "model.openvino.onnx", "position.npy")
    ]
    assert [is_ones(each) for each in kept_inside(graph)] == [True]
    shared = {each.name: each for each in proto(graph).graph.initializer if each.external_data}
    halves = [each for each in shared.values() if each.data_type == TensorProto.FLOAT16]
    assert len(halves) >= 8
    for engine in ("onnxruntime", "openvino"):
        found = differences(checkpoint, outputs, graph, engine)
        assert max(each.relative for each in found) < 2e-5


# By hand

FIRST = np.arange(100, dtype=np.float32)
SECOND = np.arange(100, 200, dtype=np.float32)


def given(folder: Path, **weights: np.ndarray) -> Path:
    """A graph whose weights are in a file beside it, each at a place of its own."""
    nodes = [helper.make_node("Identity", [name], [f"{name}.out"]) for name in weights]
    outputs = [
        helper.make_tensor_value_info(
            f"{name}.out", helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in weights.items()
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "given", [], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "first.onnx"
    onnx.save(model, path, save_as_external_data=True, location="first.data", size_threshold=0)
    return path


def second(folder: Path, **weights: np.ndarray) -> ir.Model:
    """A model in memory that is to share them."""
    made = given(folder, **weights)
    model = ir.load(made)
    for value in model.graph.initializers.values():
        value.const_value = ir.tensor(value.const_value.numpy().copy(), name=value.name)
    for file in ("first.onnx", "first.data"):
        (folder / file).unlink()
    return model


def test_equal_weights_are_found_whatever_their_names_and_order(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    model = second(tmp_path / "other", x=SECOND, y=FIRST)
    share_weights(model.graph, given(tmp_path, a=FIRST, b=SECOND))
    ir.save(model, tmp_path / "second.onnx")
    assert {*stored(proto(tmp_path / "second.onnx").graph)} == {"x", "y"}
    assert kept_inside(tmp_path / "second.onnx") == []
    found = {
        each.name: numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "second.onnx").graph.initializer
    }
    np.testing.assert_array_equal(found["x"], SECOND)
    np.testing.assert_array_equal(found["y"], FIRST)


@pytest.mark.parametrize(
    "other",
    [
        np.where(FIRST == 7, np.float32(7.0000005), FIRST),
        FIRST.reshape(10, 10),
        FIRST.view(np.int32),
        FIRST[:99],
    ],
    ids=["one value", "shape", "type", "length"],
)
def test_a_weight_that_differs_in_anything_is_not_shared(tmp_path: Path, other: Any) -> None:
    (tmp_path / "other").mkdir()
    model = second(tmp_path / "other", x=np.ascontiguousarray(other))
    share_weights(model.graph, given(tmp_path, a=FIRST))
    ir.save(model, tmp_path / "second.onnx")
    (place,) = stored(proto(tmp_path / "second.onnx").graph).values()
    assert place.location == ""


def test_what_the_first_graph_keeps_inside_is_not_shared(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    path = given(tmp_path, a=FIRST)
    onnx.save(onnx.load(path), path)
    (tmp_path / "first.data").unlink()
    model = second(tmp_path / "other", x=FIRST)
    share_weights(model.graph, path)
    value = model.graph.initializers["x"].const_value
    assert not isinstance(value, ir.ExternalTensor)


# The Hub's cache


@pytest.fixture
def linked(written: Written, tmp_path: Path) -> Path:
    """A folder as `huggingface_hub` has it: links to files that are named for their hashes."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(written.folder.iterdir())):
        shutil.copyfile(file, blobs / f"{number:064x}")  # onnx refuses weights with two names
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{number:064x}")
    return snapshot


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", ["model.openvino.onnx", "model.onnx", "model.int8.onnx"])
def test_a_graph_behind_links_has_its_weights(
    written: Written, linked: Path, name: str, engine: Any
) -> None:
    inputs = shown(written.checkpoint, 1, (3, 5))
    here, there = (
        load_engine(folder / name, engine=engine, threads=1).run(inputs, ["cls_1", "patches_1"])
        for folder in (written.folder, linked)
    )
    for key, value in here.items():
        np.testing.assert_array_equal(there[key], value)
    assert sorted(path.name for path in linked.parents[1].iterdir()) == ["blobs", "snapshots"]
    assert len([*(linked.parents[1] / "blobs").iterdir()]) == len([*written.folder.iterdir()])
