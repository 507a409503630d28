from __future__ import annotations

import pytest
import timm
import torch
from export_helpers import features, network_input

from clsspec_export.architectures import create, describe, specialized_name
from clsspec_export.checkpoints.random import random_checkpoint
from clsspec_export.paper import PAPER, SUFFIX, Row
from clsspec_export.specialize import (
    PLAIN,
    Split,
    ViT,
    has_attention_bias,
    paper_specialization,
    specialization_of,
)
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Specialization

SIZES = {
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
ROWS = {row.name: row for row in PAPER}


def _meta(name: str) -> ViT:
    with torch.device("meta"):
        return create(name)


def test_no_name_is_given_twice() -> None:
    assert len(ROWS) == len(PAPER)


@pytest.mark.parametrize(
    "expected",
    [
        *(f"vit_{size}_patch14{v}_dinov2{s}" for size in ("small", "base", "large", "huge")
          for v in ("", "_reg4", "_attnbias") for s in ("", SUFFIX)),
        "deit3_base_patch16_224_attnbias",
        "deit3_base_patch16_224_attnbias_clsspec",
        "deit3_base_patch16_224_clsspec",
        *(f"vit_{size}_patch16_dinov3_clsspec" for size in ("small", "base", "large")),
    ],
)  # fmt: skip
def test_every_model_of_the_table_can_be_created_by_name(expected: str) -> None:
    assert timm.is_model(expected)
    assert expected in timm.list_models()
    assert (expected in ROWS) != (expected in _plain_of_timm())


def _plain_of_timm() -> set[str]:
    return {
        f"vit_{size}_patch14{registers}_dinov2"
        for size in ("small", "base", "large")
        for registers in ("", "_reg4")
    }


@pytest.mark.parametrize("row", PAPER, ids=lambda row: row.name)
def test_a_row_builds_what_its_name_says(row: Row) -> None:
    model = _meta(row.name)
    size = next(size for size in SIZES if f"_{size}_" in row.name)
    architecture = describe(row.name, model)
    found = (architecture.embed_dim, architecture.depth, architecture.num_heads)
    assert found == SIZES[size]
    assert architecture.registers == (4 if "_reg4" in row.name or "dinov3" in row.name else 0)
    assert architecture.patch_size == (14 if "patch14" in row.name else 16)
    assert architecture.family == ("eva" if "dinov3" in row.name else "vit")
    assert architecture.attention_bias == ("attnbias" in row.name) == has_attention_bias(model)
    assert architecture.mlp == (
        (SIZES[size][0], 4 * SIZES[size][0]),
        (4 * SIZES[size][0], SIZES[size][0]),
    )
    assert all(parameter.is_meta for parameter in model.parameters())
    split = paper_specialization(SIZES[size][1])
    if row.name.endswith(SUFFIX):
        assert architecture.specialization == split
        assert split.qkv_blocks == SIZES[size][1] // 3
        _check_split(model, split)
    else:
        assert architecture.specialization is None
        assert specialization_of(model) == PLAIN
        assert not any(isinstance(module, Split) for module in model.modules())


def _check_split(model: ViT, split: Specialization) -> None:
    for index, block in enumerate(model.blocks):
        layers = (block.norm1, block.norm2, block.ls1, block.ls2)
        assert all(isinstance(layer, Split) for layer in layers)
        assert isinstance(block.attn.qkv, Split) == (index < split.qkv_blocks)
        assert not isinstance(block.mlp, Split)
    assert isinstance(model.norm, Split)
    assert model.norm.boundary == model.num_prefix_tokens


def _matrices(model: ViT) -> int:
    return sum(p.numel() for name, p in model.blocks.named_parameters() if p.ndim == 2)


@pytest.mark.parametrize(
    ("size", "share"), [("small", 1 / 12), ("base", 1 / 12), ("large", 1 / 12), ("huge", 10 / 128)]
)
def test_the_split_third_adds_a_twelfth_of_the_block_matrices(size: str, share: float) -> None:
    plain = _meta(f"vit_{size}_patch14_dinov2")
    split = _meta(f"vit_{size}_patch14_dinov2_clsspec")
    assert _matrices(split) / _matrices(plain) - 1 == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_splitting_the_norms_costs_less_than_a_thousandth(size: str) -> None:
    width, depth, _ = SIZES[size]
    total = sum(p.numel() for p in _meta(f"vit_{size}_patch14_dinov2").parameters())
    split = create(
        f"vit_{size}_patch14_dinov2_clsspec", specialization=Specialization(layer_scale=False)
    ) if size == "small" else None  # fmt: skip
    norms = (2 * depth + 1) * 2 * width
    if split is not None:
        assert sum(p.numel() for p in split.parameters()) - total == norms
    assert norms / total < 1e-3


def test_the_specialization_of_a_row_can_be_chosen() -> None:
    chosen = Specialization(norms=False, final_norm=False, qkv_blocks=7, registers_with="patch")
    with torch.device("meta"):
        model = create("vit_small_patch14_reg4_dinov2_clsspec", specialization=chosen)
    assert specialization_of(model) == chosen
    assert model.blocks[0].attn.qkv.boundary == 1


def test_the_small_model_runs_with_random_weights() -> None:
    checkpoint = random_checkpoint("vit_small_patch14_attnbias_dinov2_clsspec")
    found = features(checkpoint, network_input(28, 42))
    assert found.shape == (2, 1 + 6, 384)
    assert found.isfinite().all()
    assert 0.1 < found.std() < 10


def test_random_weights_are_the_same_for_the_same_seed_only() -> None:
    name = "vit_test_patch14_reg4_dinov2"
    pixels = network_input(28, 28)
    one, same, other = (features(random_checkpoint(name, s), pixels) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "resnet18 is a ResNet; accepted are"),
        ("deit_tiny_distilled_patch16_224", "VisionTransformerDistilled"),
        ("vit_of_nobody", "'vit_of_nobody' is not an architecture"),
        ("", "'' is not an architecture"),
    ],
)
def test_create_refuses_what_is_no_vit(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        _meta(name)


def test_arguments_that_timm_cannot_build_are_refused() -> None:
    with pytest.raises(UsageError, match="vit_tiny_patch16_224 with the arguments"):
        create("vit_tiny_patch16_224", num_heads=5)


def test_create_leaves_the_classifier_out_and_is_in_eval_mode() -> None:
    model = create("vit_test_patch14_dinov2")
    assert not any(module.training for module in model.modules())
    assert not any(name.startswith("head") for name, _ in model.named_parameters())


def test_the_specialized_name_is_given_once() -> None:
    assert specialized_name("a") == specialized_name("a_clsspec") == "a_clsspec"
