from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import onnx
import pytest
import torch
from export_graphs import lowest_cosine, products, proto, shown, types, weights
from long_cases import mostly_long
from onnx import NodeProto, TensorProto
from standins.backbones import (
    DINOV2,
    EVA,
    FAMILIES,
    Written,
    all_outputs,
    families,
    tiny,
)
from torch import nn

from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.half import HalfLinear, in_half
from clsspec_export.onnx_graph import export_graph
from clsspec_export.pixels import fold_pixels
from clsspec_export.reference import Reference
from clsspec_export.streams import StreamedBackbone
from clsspec_serve.choices import Precision
from clsspec_serve.manifest import Specialization
from clsspec_serve.parity import compare

TYPES = {"bf16": TensorProto.BFLOAT16, "fp16": TensorProto.FLOAT16}
HALVES: tuple[Precision, ...] = ("bf16", "fp16")
LEAST = 0.999
MOST_OF_FP16 = 65504
BY = {"bf16": "openvino", "fp16": "onnxruntime"}
"""What computes such a graph on any CPU, if slowly."""

both = pytest.mark.parametrize("precision", HALVES)


def streamed(checkpoint: Checkpoint) -> Backbone:
    embed = fold_pixels(checkpoint.model.patch_embed.proj, checkpoint.preprocessing)
    plain = checkpoint.model.specialization.norms is False
    form = Backbone if plain else StreamedBackbone
    return form(checkpoint.model, all_outputs(checkpoint), embed).eval()


@cache
def others() -> dict[str, Checkpoint]:
    """Beyond the families: norms between two products, of q and k and inside of the MLP."""
    split = Specialization(qkv_blocks=1)
    return {
        "norms of q and k": tiny(DINOV2, split, qk_norm=True),
        "a norm in the MLP": tiny(EVA, split, scale_mlp=True),
    }


OTHERS = ("norms of q and k", "a norm in the MLP")


def checkpoint_of(name: str) -> Checkpoint:
    return families()[name]() if name in FAMILIES else others()[name]


@both
@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_every_kind_of_backbone_computes_in_half_precision(
    family: str, precision: Precision
) -> None:
    checkpoint = checkpoint_of(family)
    half, inputs = in_half(streamed(checkpoint), precision), shown(checkpoint, 2, (3, 5))
    with torch.inference_mode():
        values = half(*(torch.from_numpy(value) for value in inputs.values()))
    expected = Reference(checkpoint, half.outputs).sample(inputs["pixels"]).outputs
    assert {value.dtype for value in values} == {torch.float32}
    found = dict(zip(expected, (value.numpy() for value in values), strict=True))
    cosines = [compare(n, (3, 5), found[n], each).cosine for n, each in expected.items()]
    assert LEAST < min(cosines) < 1 - 1e-8, "in fp32 it would be closer"


ALWAYS = [("fp16", "rotary"), ("bf16", "norm_pre"), ("fp16", "norms of q and k")]
EXPORTED = mostly_long(
    product(HALVES, ("attention bias", "rotary", "norm_pre", "swiglu", *OTHERS)), ALWAYS
)


@pytest.mark.parametrize(("precision", "family"), EXPORTED)
def test_its_graph_does_the_same_on_the_engine_that_has_kernels_for_it(
    family: str, precision: Precision, tmp_path: Path
) -> None:
    checkpoint, graph = checkpoint_of(family), tmp_path / "model.onnx"
    export_graph(in_half(streamed(checkpoint), precision), graph)
    onnx.checker.check_model(graph, full_check=True)
    outputs = all_outputs(checkpoint)
    assert lowest_cosine(checkpoint, outputs, graph, BY[precision]) > LEAST


def test_the_given_backbone_stays_as_it_was() -> None:
    backbone = streamed(families()["specialized"]())
    half = in_half(backbone, "bf16")
    assert not any(isinstance(module, HalfLinear) for module in backbone.modules())
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert not any(isinstance(module, nn.Linear) for module in half.modules())


@both
def test_weights_are_rounded_to_the_nearest(precision: Precision) -> None:
    backbone = streamed(families()["specialized"]())
    half = in_half(backbone, precision)
    layer, given = half.blocks[0].mlp.fc1, backbone.blocks[0].mlp.fc1
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert torch.equal(layer.weight, given.weight.to(dtype))
    assert torch.equal(layer.bias, given.bias.to(dtype))


# What is in the file


def half_graph(written: Written, precision: Precision) -> Path:
    return written.folder / f"model.{precision}.onnx"


@both
def test_inputs_and_outputs_are_those_of_fp32(written: Written, precision: Precision) -> None:
    half, whole = (proto(path).graph for path in (half_graph(written, precision), written.graph))
    assert [*half.input] == [*whole.input]
    assert [*half.output] == [*whole.output]
    assert half.input[0].type.tensor_type.elem_type == TensorProto.UINT8


@both
def test_all_products_take_and_give_half_precision(written: Written, precision: Precision) -> None:
    path = half_graph(written, precision)
    graph, found = proto(path).graph, types(path)
    nodes = products(graph)
    names = [name for node in nodes for name in (*node.input, *node.output)]
    assert {found[name] for name in names} == {TYPES[precision]}
    stored = weights(graph)
    matrices = [name for node in nodes for name in node.input if name in stored]
    # Of two blocks each projection and two of an MLP; a split QKV and one that is not; the patches.
    assert len(matrices) == 2 * 3 + 3 + 1


@both
def test_matrices_are_stored_in_half_precision_and_nothing_else_is(
    written: Written, precision: Precision
) -> None:
    stored = weights(proto(half_graph(written, precision)).graph)
    large = {kind for kind, shape in stored.values() if len(shape) == 2}
    norms = [kind for name, (kind, shape) in stored.items() if "norm" in name or "gamma" in name]
    assert large == {TYPES[precision]}
    assert {*norms} == {TensorProto.FLOAT}
    assert len(norms) > 10
    sizes = [
        written.folder.joinpath(f"{name}.data").stat().st_size
        for name in (f"model.{precision}.onnx", "model.onnx")
    ]
    assert sizes[0] < 0.52 * sizes[1]


@both
def test_attention_is_in_half_precision_with_no_scale_of_another_type(
    written: Written, precision: Precision
) -> None:
    path = half_graph(written, precision)
    nodes, found = proto(path).graph.node, types(path)
    attention = [node for node in nodes if node.op_type == "Attention"]
    assert len(attention) == 2
    for node in attention:
        assert {found[n] for n in (*node.input, *node.output) if n} == {TYPES[precision]}
    assert not [node for node in nodes if node.op_type in {"Softmax", "Sqrt"}]


@both
def test_norms_and_the_residual_stream_are_in_fp32(written: Written, precision: Precision) -> None:
    path = half_graph(written, precision)
    nodes, found = proto(path).graph.node, types(path)
    norms = [node for node in nodes if node.op_type == "LayerNormalization"]
    assert len(norms) == 12
    for node in norms:
        assert {found[n] for n in (*node.input, *node.output) if n} == {TensorProto.FLOAT}
    scaled = [n for n in nodes if n.op_type == "Mul" and any("gamma" in i for i in n.input)]
    assert len(scaled) == 8
    assert {found[n] for node in scaled for n in node.output} == {TensorProto.FLOAT}


def from_pixels(nodes: list[NodeProto]) -> Iterator[NodeProto]:
    """What becomes of the bytes, up to the first product."""
    name = "pixels"
    while True:
        node = next(node for node in nodes if node.input and node.input[0] == name)
        yield node
        if node.op_type == "MatMul":
            return
        name = node.output[0]


@both
def test_bytes_are_moved_and_become_fp32_before_half_precision(
    written: Written, precision: Precision
) -> None:
    """TensorRT turns bytes only into float32."""
    nodes = [
        node for node in proto(half_graph(written, precision)).graph.node if node.op_type != "Shape"
    ]
    found = [*from_pixels(nodes)]
    assert {node.op_type for node in found} == {"Reshape", "Transpose", "Cast", "MatMul"}
    casts = [node.attribute[0].i for node in found if node.op_type == "Cast"]
    assert casts == [TensorProto.FLOAT, TYPES[precision]]
    others = [node for node in nodes if node.op_type == "Cast" and node.input[0] == "pixels"]
    assert others == []
    kinds = [node.op_type for node in found]
    assert kinds.index("Transpose") < kinds.index("Cast"), "a quarter of what floats would be"


@both
def test_a_batch_and_a_grid_are_free(written: Written, precision: Precision) -> None:
    graph, checkpoint = half_graph(written, precision), written.checkpoint
    for batch, grid in ((1, (4, 4)), (2, (3, 5)), (5, (6, 2))):
        found = lowest_cosine(
            checkpoint, written.outputs, graph, BY[precision], batch=batch, grid=grid
        )
        assert found > LEAST


@both
def test_nothing_overflows_where_a_few_channels_are_large(precision: Precision) -> None:
    """As of DINOv2's tokens, beyond what fp16 holds: the stream and its norms stay in fp32."""
    checkpoint = tiny(DINOV2, Specialization(qkv_blocks=1))
    with torch.no_grad():
        for scale in (checkpoint.model.blocks[0].ls2.cls, checkpoint.model.blocks[0].ls2.patch):
            scale.gamma[3] = 1e6
    half, inputs = in_half(streamed(checkpoint), precision), shown(checkpoint, 1, (3, 5))
    with torch.inference_mode():
        values = half(*(torch.from_numpy(value) for value in inputs.values()))
    assert all(value.isfinite().all() for value in values)
    assert max(float(value.abs().max()) for value in values) > MOST_OF_FP16
