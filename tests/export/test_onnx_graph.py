from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_helpers import random_pixels
from long_cases import mostly_long
from onnx import TensorProto
from standins.backbones import FAMILIES, USUAL, Exported
from torch import nn

from clsspec_export.onnx_graph import OPSET
from clsspec_export.reference import Reference
from clsspec_serve.arithmetic import token_counts
from clsspec_serve.choices import EngineName
from clsspec_serve.engines.select import load_engine
from clsspec_serve.parity import compare
from clsspec_serve.position import position_map

TOLERANCE = 1e-4
BATCHES_AND_GRIDS = ((1, (4, 4)), (2, (3, 5)), (5, (6, 2)), (1, (1, 1)))

Family = Callable[[str], Exported]
every_family = pytest.mark.parametrize("family", mostly_long(FAMILIES, USUAL))


def model_of(item: Exported) -> onnx.ModelProto:
    return onnx.load(item.graph, load_external_data=False)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


@every_family
def test_inputs_and_outputs_have_their_names_types_and_dynamic_axes(
    family: str, exported: Family
) -> None:
    item = exported(family)
    graph = model_of(item).graph
    pixels, position = graph.input
    patch, rotary = item.architecture.patch_size, family == "rotary"
    assert (pixels.name, position.name) == ("pixels", "position")
    assert pixels.type.tensor_type.elem_type == TensorProto.UINT8
    assert position.type.tensor_type.elem_type == TensorProto.FLOAT
    assert dims(pixels) == ["batch", 4, f"{patch}*h", f"{patch}*w"]
    assert dims(position) == ["h", "w", 48 if rotary else 72]
    assert [output.name for output in graph.output] == [output.name for output in item.outputs]
    for found, output in zip(graph.output, item.outputs, strict=True):
        assert found.type.tensor_type.elem_type == TensorProto.FLOAT
        grid = ["h", "w"] if output.kind == "patches" else []
        assert dims(found) == ["batch", *grid, 72]


@every_family
def test_the_opset_is_the_first_with_attention(family: str, exported: Family) -> None:
    model = model_of(exported(family))
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    assert OPSET == 23
    assert not model.functions


@every_family
def test_all_weights_are_in_one_file_beside_the_graph(family: str, exported: Family) -> None:
    item = exported(family)
    graph = model_of(item).graph
    floats = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
    inside = [t.name for t in floats if t.data_location != TensorProto.EXTERNAL and len(t.dims)]
    places = {e.value for t in floats for e in t.external_data if e.key == "location"}
    assert inside == []
    assert places == {"model.onnx.data"}
    assert {file.name for file in item.graph.parent.iterdir()} == {"model.onnx", "model.onnx.data"}
    onnx.checker.check_model(item.graph, full_check=True)


@every_family
def test_the_file_says_nothing_of_the_machine_it_was_made_on(family: str, exported: Family) -> None:
    content = exported(family).graph.read_bytes()
    here = (Path.home(), Path.cwd(), Path(torch.__file__).parent, Path(__file__).parent, "/tmp")
    for trace in (*(str(path).encode() for path in here), b'File "', b".py", b"site-packages"):
        assert trace not in content
    assert socket.gethostname().encode() not in content


def layer_norms(item: Exported) -> int:
    """LayerNormalization nodes by the architecture: two per split norm."""
    per_norm = 2 if (s := item.architecture.specialization) and s.norms else 1
    per_final = 2 if s and s.final_norm else 1
    normed = len({output.layer for output in item.outputs if output.norm})
    model = item.checkpoint.model
    extra = sum(isinstance(m, nn.LayerNorm) for m in (model.norm_pre, model.patch_embed.norm))
    return 2 * item.architecture.depth * per_norm + normed * per_final + extra


@every_family
def test_layer_norm_and_attention_are_single_nodes(family: str, exported: Family) -> None:
    item = exported(family)
    nodes = Counter(node.op_type for node in model_of(item).graph.node)
    assert nodes["LayerNormalization"] == layer_norms(item)
    assert nodes["Attention"] == item.architecture.depth
    assert not nodes.keys() & {"ReduceMean", "Sqrt", "Pow", "Softmax", "Resize"}


@every_family
def test_nothing_is_transposed_around_attention(family: str, exported: Family) -> None:
    item = exported(family)
    graph = model_of(item).graph
    heads = [
        {each.name: each.i for each in node.attribute}["q_num_heads"]
        for node in graph.node
        if node.op_type == "Attention"
    ]
    assert heads == [item.architecture.num_heads] * item.architecture.depth
    transposed = [node for node in graph.node if node.op_type == "Transpose"]
    assert len(transposed) == 1  # that of pixels into patches
    assert len(transposed[0].attribute[0].ints) == 6


@every_family
def test_tokens_are_sliced_and_never_selected(family: str, exported: Family) -> None:
    nodes = {node.op_type for node in model_of(exported(family)).graph.node}
    assert "Slice" in nodes
    assert not nodes & {"Where", "If", "GatherND", "ScatterND", "Compress", "NonZero", "Einsum"}


@every_family
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_batch_and_grid_agrees_with_pytorch(
    family: str, engine: EngineName, exported: Family
) -> None:
    item = exported(family)
    checkpoint, patch = item.checkpoint, item.architecture.patch_size
    loaded = load_engine(item.graph, engine=engine, threads=1)
    reference = Reference(checkpoint, item.outputs)
    worst = 0.0
    for batch, grid in BATCHES_AND_GRIDS:
        pixels = random_pixels(batch, grid[0] * patch, grid[1] * patch)
        position = position_map(checkpoint.position, checkpoint.table.numpy(), grid)
        names = [output.name for output in item.outputs]
        found = loaded.run({"pixels": pixels, "position": position}, names)
        for name, value in reference.sample(pixels).outputs.items():
            assert found[name].dtype == np.float32
            worst = max(worst, compare(name, grid, found[name], value).relative)
    print(f"{family} in {engine}: {worst:.1e}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("family", ["registers with cls", "registers with patch"])
def test_registers_follow_the_weights_that_the_manifest_names(
    family: str, exported: Family
) -> None:
    item = exported(family)
    cls, patch = token_counts(item.architecture, (4, 4))
    assert (cls, patch) == ((5, 16) if family == "registers with cls" else (1, 20))
    assert item.checkpoint.model.blocks[0].attn.qkv.boundary == cls
