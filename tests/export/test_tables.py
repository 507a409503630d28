from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from export_graphs import differences, shown
from long_cases import mostly_long
from standins.backbones import CLIP, DINOV2, DINOV3, FAMILIES, REG4, all_outputs, families, tiny
from torch import nn

from clsspec_export import graphs as graphs_module
from clsspec_export.architectures import describe
from clsspec_export.audit import audit
from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.graphs import write_graphs
from clsspec_export.onnx_graph import export_graph
from clsspec_export.pixels import fold_pixels
from clsspec_export.reference import Reference
from clsspec_export.tables import TabledBackbone, fits_tables
from clsspec_serve.manifest import Specialization

SPLIT = tuple(family for family in FAMILIES if family != "plain")
ALWAYS = ("registers with patch", "rotary", "EVA with learned positions")
SIZES = ((1, (4, 4)), (2, (3, 5)), (5, (6, 2)))
TOLERANCE = 2e-5
QKV = Specialization(qkv_blocks=1)
Made = list[tuple[type[Backbone], str, str | None]]


def tabled(checkpoint: Checkpoint) -> TabledBackbone:
    embed = fold_pixels(checkpoint.model.patch_embed.proj, checkpoint.preprocessing)
    return TabledBackbone(checkpoint.model, all_outputs(checkpoint), embed).eval()


def furthest(checkpoint: Checkpoint, batch: int, grid: tuple[int, int]) -> float:
    """The largest difference of PyTorch's own run of the tabled form, of the largest value."""
    backbone, inputs = tabled(checkpoint), shown(checkpoint, batch, grid)
    with torch.inference_mode():
        values = backbone(*(torch.from_numpy(value) for value in inputs.values()))
    expected = Reference(checkpoint, backbone.outputs).sample(inputs["pixels"]).outputs
    found = zip(values, map(torch.from_numpy, expected.values()), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in found)


@pytest.mark.parametrize("family", SPLIT)
def test_the_tabled_form_is_the_same_function(family: str) -> None:
    checkpoint = families()[family]()
    assert all(furthest(checkpoint, batch, grid) < TOLERANCE for batch, grid in SIZES)


@pytest.mark.parametrize("family", mostly_long(SPLIT, ALWAYS))
def test_its_graph_computes_and_multiplies_what_the_model_does_on_both_engines(
    family: str, tmp_path: Path
) -> None:
    checkpoint, graph = families()[family](), tmp_path / "model.onnx"
    export_graph(tabled(checkpoint), graph)
    for engine in ("onnxruntime", "openvino"):
        for batch, grid in SIZES:
            found = differences(
                checkpoint, all_outputs(checkpoint), graph, engine, batch=batch, grid=grid
            )
            assert max(each.relative for each in found) < TOLERANCE, (engine, batch, grid)
    audit(graph, describe(checkpoint.architecture, checkpoint.model))


PARTS: dict[str, dict[str, Any]] = {
    "norms only": {"final_norm": False, "layer_scale": False},
    "LayerScale only": {"norms": False, "final_norm": False},
    "QKV only": {"norms": False, "final_norm": False, "layer_scale": False, "qkv_blocks": 2},
    "all but the final norm": {"final_norm": False, "qkv_blocks": 2},
    "all but the norms of blocks": {"norms": False, "qkv_blocks": 1},
}


@pytest.mark.parametrize("registers_with", ["cls", "patch"])
@pytest.mark.parametrize("parts", PARTS)
def test_it_is_whatever_of_a_model_is_split(parts: str, registers_with: Any) -> None:
    split = Specialization(registers_with=registers_with, **PARTS[parts])
    assert furthest(tiny(REG4, split), 2, (3, 5)) < TOLERANCE


@pytest.mark.parametrize("base", [DINOV2, CLIP, DINOV3])
def test_models_with_layer_norms_fit(base: str) -> None:
    assert fits_tables(tiny(base, QKV).model)


def without_bias(*sizes: int, **options: Any) -> nn.LayerNorm:
    return nn.LayerNorm(*sizes, **options, bias=False)


def test_norms_without_a_mean_or_a_bias_do_not_fit() -> None:
    from timm.layers import RmsNorm

    assert not fits_tables(tiny(DINOV2, QKV, norm_layer=RmsNorm).model)
    assert not fits_tables(tiny(DINOV2, QKV, norm_layer=without_bias).model)
    shared = Specialization(norms=False, final_norm=False, qkv_blocks=1)
    assert fits_tables(tiny(DINOV2, shared, norm_layer=RmsNorm).model)


def test_one_norm_that_does_not_fit_is_enough() -> None:
    model = tiny(DINOV2, QKV).model
    model.blocks[1].norm2.cls.bias = None
    assert not fits_tables(model)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """The graphs that were to be exported: the form, the file, and whose weights it takes."""
    found: Made = []

    def note(backbone: Backbone, path: Path, **given: Any) -> None:
        other = given.get("weights_of")
        found.append((type(backbone), path.name, other and other.name))

    monkeypatch.setattr(graphs_module, "export_graph", note)
    return found


def written(checkpoint: Checkpoint, folder: Path) -> list[dict[str, Any]]:
    variants = write_graphs(checkpoint, all_outputs(checkpoint), folder)
    return [variant.model_dump(exclude_none=True) for variant in variants]


def test_openvino_gets_the_tabled_form_with_the_weights_of_the_first(
    made: Made, tmp_path: Path
) -> None:
    engines, precisions = ("openvino",), ("fp32", "bf16")
    expected = {"graph": "model.openvino.onnx", "engines": engines, "precisions": precisions}
    assert written(tiny(DINOV2, QKV), tmp_path) == [expected]
    assert [(each.__name__, *rest) for each, *rest in made] == [
        ("StreamedBackbone", "model.onnx", None),
        ("TabledBackbone", "model.openvino.onnx", "model.onnx"),
    ]


@pytest.mark.parametrize(
    ("checkpoint", "form"),
    [
        (lambda: tiny(DINOV2, QKV, norm_layer=without_bias), "StreamedBackbone"),
        (lambda: tiny(DINOV2), "Backbone"),
        (lambda: tiny(DINOV2, Specialization(norms=False, layer_scale=False)), "Backbone"),
    ],
    ids=["no bias", "plain", "only the final norm is split"],
)
def test_what_fits_no_tables_or_needs_none_has_one_graph(
    made: Made, tmp_path: Path, checkpoint: Callable[[], Checkpoint], form: str
) -> None:
    assert written(checkpoint(), tmp_path) == []
    assert [(each.__name__, *rest) for each, *rest in made] == [(form, "model.onnx", None)]
