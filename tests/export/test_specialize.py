from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from export_helpers import DEPTH, TINY, TOLERANCE, WIDTH, difference
from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock
from torch import nn

from clsspec_export.architectures import create
from clsspec_export.attention import AttentionBias
from clsspec_export.random_weights import randomize
from clsspec_export.specialize import (
    PLAIN,
    ViT,
    has_attention_bias,
    paper_specialization,
    specialization_of,
    specialize,
)
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Specialization

EVERYTHING = Specialization(qkv_blocks=DEPTH)
HALF = paper_specialization(DEPTH)

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 56}),
    "dinov2 registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "dinov2 swiglu": ("vit_giant_patch14_dinov2", {"img_size": 56}),
    "clip": ("vit_base_patch16_clip_224", {"img_size": 64}),
    "supervised": ("vit_base_patch16_224", {"img_size": 64}),
    "qk norm": ("vit_base_patch16_224", {"img_size": 64, "qk_norm": True}),
    "no bias": ("vit_base_patch16_224", {"img_size": 64, "qkv_bias": False}),
    "deit3": ("deit3_small_patch16_224", {"img_size": 64}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "dinov3 biased": ("vit_small_patch16_dinov3_qkvb", {}),
    "dinov3 gated": ("vit_small_plus_patch16_dinov3_qkvb", {}),
    "eva": ("eva_giant_patch14_224", {"img_size": 56}),
    "eva02 fused": ("eva02_tiny_patch14_224", {"img_size": 56}),
    "eva02 separate": ("eva02_base_patch14_448", {"img_size": 56}),
    "attention-only layer scale": (
        "vit_small_patch16_dinov3",
        {"attn_only_layer_scale": True},
    ),
}


def _build(name: str, **changes: Any) -> ViT:
    base, arguments = MODELS[name]
    model = timm.create_model(base, **(TINY | arguments | changes)).eval()
    randomize(model, seed=1)
    return model


def _image(model: ViT, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    side = 64 if model.dynamic_img_size else model.patch_embed.img_size[0]
    return torch.randn(2, 3, side, side, generator=generator)


@torch.no_grad()
def _tokens(model: ViT) -> torch.Tensor:
    return model.forward_features(_image(model))


@pytest.mark.parametrize("registers_with", ["cls", "patch"])
@pytest.mark.parametrize("name", MODELS)
def test_specializing_leaves_the_outputs_as_they_were(name: str, registers_with: str) -> None:
    model = _build(name)
    expected = _tokens(model)
    specialize(model, EVERYTHING.model_copy(update={"registers_with": registers_with}))
    assert difference(_tokens(model), expected) <= TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_the_plain_form_leaves_the_outputs_as_they_were(name: str) -> None:
    model = _build(name)
    expected = _tokens(model)
    assert specialize(model, PLAIN) is model
    assert difference(_tokens(model), expected) <= TOLERANCE
    assert specialization_of(model) == PLAIN


@pytest.mark.parametrize("name", MODELS)
def test_with_dropout_a_training_step_is_that_of_the_original_model(name: str) -> None:
    rates = ("drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate")
    model = _build(name, **dict.fromkeys(rates, 0.3)).train()
    torch.manual_seed(3)
    expected = _tokens(model)
    specialize(model, EVERYTHING)
    torch.manual_seed(3)
    assert difference(_tokens(model), expected) <= TOLERANCE
    torch.manual_seed(4)
    assert difference(_tokens(model), expected) > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_a_specialized_model_matters(name: str) -> None:
    model = _build(name)
    specialize(model, HALF, attention_bias=True)
    randomize(model, seed=4)
    unused = {"fc_norm.weight", "fc_norm.bias"}
    model.forward_features(_image(model)).square().sum().backward()
    idle = {
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    }
    # A constant added to every key cancels in the softmax, but k' has no such constant.
    assert idle <= unused


def test_the_parameters_have_the_paper_s_names() -> None:
    model = specialize(_build("dinov2 registers"), HALF, attention_bias=True)
    names = set(dict(model.named_parameters()))
    assert {
        "blocks.0.norm1.cls.weight",
        "blocks.0.norm1.patch.weight",
        "blocks.2.norm2.cls.bias",
        "blocks.0.attn.qkv.cls.weight",
        "blocks.0.attn.qkv.patch.bias",
        "blocks.0.attn.proj.weight",
        "blocks.0.attn.bias.k",
        "blocks.0.attn.bias.v",
        "blocks.0.ls1.cls.gamma",
        "blocks.2.ls2.patch.gamma",
        "blocks.1.attn.qkv.weight",
        "norm.cls.weight",
        "norm.patch.bias",
    } <= names
    assert not {"blocks.0.norm1.weight", "blocks.1.attn.qkv.cls.weight"} & names


def test_eva_ends_with_the_names_of_a_vision_transformer() -> None:
    eva = set(specialize(_build("dinov3 biased"), HALF).blocks[0].state_dict())
    vit = set(specialize(_build("dinov2"), HALF).blocks[0].state_dict())
    assert eva == vit


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("blocks", range(DEPTH + 1))
@pytest.mark.parametrize("name", ["dinov2", "deit3", "dinov2 registers"])
def test_the_parameters_grow_by_the_arithmetic_of_the_split_layers(name: str, blocks: int) -> None:
    model = _build(name)
    before, width = _count(model), WIDTH
    specialize(model, Specialization(qkv_blocks=blocks))
    qkv = blocks * (3 * width * width + 3 * width)
    norms = DEPTH * 2 * 2 * width + 2 * width
    scales = DEPTH * 2 * width
    assert _count(model) - before == qkv + norms + scales


def test_the_attention_bias_adds_a_key_and_a_value_per_head() -> None:
    model = _build("dinov2")
    before = _count(model)
    specialize(model, PLAIN, attention_bias=True)
    assert _count(model) - before == DEPTH * 2 * WIDTH
    assert has_attention_bias(model)


@pytest.mark.parametrize("name", ["dinov2", "dinov3 biased"])
def test_specializing_twice_changes_nothing(name: str) -> None:
    model = specialize(_build(name), HALF, attention_bias=True)
    randomize(model, seed=8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tokens = _tokens(model)
    specialize(model, HALF, attention_bias=True)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(_tokens(model), tokens)


def test_specializing_in_two_steps_is_specializing_at_once() -> None:
    one = specialize(_build("dinov2"), HALF)
    other = specialize(_build("dinov2"), PLAIN)
    specialize(other, Specialization(final_norm=False, layer_scale=False))
    specialize(other, Specialization(norms=False, qkv_blocks=1))
    assert one.state_dict().keys() == other.state_dict().keys()
    assert specialization_of(other) == specialization_of(one)


def test_plain_leaves_a_specialized_model_as_it_is() -> None:
    split = HALF.model_copy(update={"registers_with": "patch"})
    model = specialize(_build("dinov2 registers"), split)
    tokens = _tokens(model)
    specialize(model, PLAIN)
    assert specialization_of(model) == split
    assert torch.equal(_tokens(model), tokens)


def test_the_two_copies_share_no_memory() -> None:
    model = specialize(_build("dinov2"), EVERYTHING)
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    assert len(set(pointers)) == len(pointers)


def _gated(name: str) -> ViT:
    model = _build(name)
    model.blocks[1].attn.gate = nn.Linear(WIDTH, WIDTH)
    return model


REFUSED = {
    "no class token": lambda: _build("supervised", class_token=False, global_pool="avg"),
    "ParallelScalingBlock": lambda: _build("supervised", block_fn=ParallelScalingBlock),
    "ParallelThingsBlock": lambda: _build("supervised", block_fn=ParallelThingsBlock),
    "differential attention": lambda: _build("supervised", attn_layer="diff"),
    "gate": lambda: _gated("supervised"),
    "gated eva": lambda: _gated("dinov3"),
    "norm in attention": lambda: _build("eva", scale_attn_inner=True),
    "rope attention": lambda: _build("dinov3", attn_type="rope"),
    "post norm": lambda: _build("eva", use_post_norm=True, init_values=None),
    "distilled": lambda: timm.create_model("deit_tiny_distilled_patch16_224", img_size=64, depth=2),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_of_another_kind_is_refused_and_left_alone(kind: str) -> None:
    model = REFUSED[kind]()
    before = list(model.state_dict())
    with pytest.raises(UsageError) as caught:
        specialize(model, HALF)
    assert "\n" not in str(caught.value)
    assert list(model.state_dict()) == before
    assert specialization_of(model) is None


def test_the_distilled_deit_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="VisionTransformerDistilled"):
        create("deit_tiny_distilled_patch16_224", img_size=32)


def test_more_qkv_blocks_than_blocks_are_refused() -> None:
    with pytest.raises(UsageError, match=rf"qkv_blocks is {DEPTH + 1}; the model has {DEPTH}"):
        specialize(_build("dinov2"), Specialization(qkv_blocks=DEPTH + 1))


def test_registers_cannot_change_sides() -> None:
    model = specialize(_build("dinov2 registers"), HALF)
    with pytest.raises(UsageError, match="go with its cls weights"):
        specialize(model, HALF.model_copy(update={"registers_with": "patch"}))


def test_a_fresh_attention_bias_is_zero() -> None:
    bias = AttentionBias(2, 3)
    assert not bias.k.any()
    assert bias.v.shape == (1, 2, 1, 3)


def test_layers_that_a_model_lacks_are_not_noted_as_split() -> None:
    model = timm.create_model("vit_tiny_patch16_224", depth=2, final_norm=False, num_classes=0)
    specialize(model, Specialization(qkv_blocks=1))
    found = specialization_of(model)
    assert found == Specialization(qkv_blocks=1, layer_scale=False, final_norm=False)
