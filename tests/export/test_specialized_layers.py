"""What each half of a split layer reaches, and the attention computed token by token."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import timm
import torch
from export_helpers import DEPTH, HEADS, TINY, TOLERANCE, WIDTH, difference
from torch import Tensor, nn

from clsspec_export.attention import SpecializedAttention
from clsspec_export.random_weights import randomize
from clsspec_export.specialize import (
    Split,
    ViT,
    paper_specialization,
    specialize,
)

HEAD = WIDTH // HEADS
BASES = {
    "vit": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, 4),
    "eva": ("vit_small_patch16_dinov3_qkvb", {"img_size": 64}, 4),
    "no registers": ("vit_small_patch14_dinov2", {"img_size": 56}, 0),
}


def _model(kind: str = "vit", registers_with: str = "cls", **changes: float) -> ViT:
    base, arguments, _ = BASES[kind]
    model = timm.create_model(base, **(TINY | arguments | changes)).eval()
    split = paper_specialization(DEPTH).model_copy(update={"registers_with": registers_with})
    specialize(model, split, attention_bias=True)
    randomize(model, seed=9)
    return model


def _image(model: ViT) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, *model.patch_embed.img_size, generator=generator)


@torch.no_grad()
def _run(model: ViT) -> Tensor:
    return model.forward_features(_image(model))


def _changed(before: Tensor, after: Tensor) -> list[bool]:
    return [bool(x) for x in (before != after).any(dim=-1).any(dim=0)]


def _boundary(kind: str, registers_with: str) -> int:
    return 1 + BASES[kind][2] if registers_with == "cls" else 1


@pytest.mark.parametrize("registers_with", ["cls", "patch"])
@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("half", ["cls", "patch"])
def test_the_final_norm_of_one_type_reaches_only_its_tokens(
    half: str, kind: str, registers_with: str
) -> None:
    model = _model(kind, registers_with)
    before = _run(model)
    with torch.no_grad():
        getattr(model.norm, half).weight.mul_(1.5)
    boundary = _boundary(kind, registers_with)
    expected = [(index < boundary) == (half == "cls") for index in range(before.shape[1])]
    assert _changed(before, _run(model)) == expected


LAYERS: dict[str, Callable[[nn.Module], Split]] = {
    "norm1": lambda block: block.norm1,
    "norm2": lambda block: block.norm2,
    "ls1": lambda block: block.ls1,
    "ls2": lambda block: block.ls2,
    "qkv": lambda block: block.attn.qkv,
}


@pytest.mark.parametrize("registers_with", ["cls", "patch"])
@pytest.mark.parametrize("half", ["cls", "patch"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_split_layer_of_the_first_block_reaches_only_its_tokens_directly(
    layer: str, half: str, registers_with: str
) -> None:
    model = _model("vit", registers_with)
    split = LAYERS[layer](model.blocks[0])
    seen: list[Tensor] = []
    split.register_forward_hook(lambda module, args, output: seen.append(output.detach().clone()))
    _run(model)
    with torch.no_grad():
        for parameter in getattr(split, half).parameters():
            parameter.add_(0.5)
    _run(model)
    boundary = _boundary("vit", registers_with)
    expected = [(index < boundary) == (half == "cls") for index in range(seen[0].shape[1])]
    assert _changed(*seen) == expected


def test_the_cls_weights_of_norm1_reach_patches_only_through_attention() -> None:
    model = _model()
    inputs: list[Tensor] = []
    model.blocks[0].norm1.patch.register_forward_hook(
        lambda module, args, output: inputs.append(args[0].clone())
    )
    before = _run(model)
    with torch.no_grad():
        model.blocks[0].norm1.cls.weight.mul_(2)
    after = _run(model)
    assert torch.equal(*inputs)
    assert all(_changed(before, after))


def _rotate(vector: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    half = len(vector) // 2
    turned = torch.cat([-vector[half:], vector[:half]])
    return vector * cos + turned * sin


def _attention_by_hand(
    attention: SpecializedAttention, tokens: Tensor, boundary: int, prefix: int, rope: Tensor | None
) -> Tensor:
    """`(N, D)` in and out: every token, head and softmax on its own, as the formula reads."""
    queries, keys, values = [], [], []
    for index, token in enumerate(tokens):
        layer = attention.qkv.cls if index < boundary else attention.qkv.patch
        q, k, v = (layer.weight @ token + layer.bias).split(WIDTH)
        if rope is not None and index >= prefix:
            sin, cos = rope[index - prefix].split(HEAD)
            q, k = (
                torch.cat([_rotate(head, sin, cos) for head in vector.split(HEAD)])
                for vector in (q, k)
            )
        queries.append(q)
        keys.append(k)
        values.append(v)
    out = []
    for query in queries:
        heads = []
        for head in range(HEADS):
            part = slice(head * HEAD, (head + 1) * HEAD)
            own_k, own_v = attention.bias.k[0, head, 0], attention.bias.v[0, head, 0]
            against = torch.stack([own_k, *(k[part] for k in keys)])
            weights = (against @ query[part] / math.sqrt(HEAD)).exp()
            weights = weights / weights.sum()
            candidates = [own_v, *(v[part] for v in values)]
            heads.append(sum(w * v for w, v in zip(weights, candidates, strict=True)))
        out.append(attention.proj.weight @ torch.cat(heads) + attention.proj.bias)
    return torch.stack(out)


@pytest.mark.parametrize("registers_with", ["cls", "patch"])
@pytest.mark.parametrize("kind", BASES)
@torch.no_grad()
def test_attention_equals_its_formula_written_out(kind: str, registers_with: str) -> None:
    model = _model(kind, registers_with)
    attention, prefix = model.blocks[0].attn, model.num_prefix_tokens
    rope = model.rope.get_embed((2, 3)) if kind == "eva" else None
    tokens = torch.randn(1, prefix + 6, WIDTH, generator=torch.Generator().manual_seed(1))
    found = attention(tokens, rope=rope)[0]
    boundary = _boundary(kind, registers_with)
    expected = _attention_by_hand(attention, tokens[0], boundary, prefix, rope)
    assert difference(found, expected) <= TOLERANCE


def test_a_key_far_below_the_others_leaves_the_attention_as_it_was() -> None:
    model = _model()
    attention = model.blocks[0].attn
    tokens = torch.randn(1, 9, WIDTH)
    with torch.no_grad():
        bias, attention.bias = attention.bias, None
        expected = attention(tokens)
        attention.bias = bias
        assert difference(attention(tokens), expected) > 1e-3
        bias.k.zero_()
        bias.v.zero_()
        # A zero key scores 0; among keys that score far above, it has no share.
        attention.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        attention.qkv.bias[:WIDTH] = 20
        attention.qkv.bias[WIDTH : 2 * WIDTH] = 20
        shared = attention(tokens)
        attention.bias = None
        assert difference(shared, attention(tokens)) <= TOLERANCE


@pytest.mark.parametrize("kind", BASES)
def test_training_gives_gradients_to_both_copies(kind: str) -> None:
    model = _model(kind).train()
    model.forward_features(_image(model)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "rate", ["drop_path_rate", "attn_drop_rate", "proj_drop_rate", "pos_drop_rate"]
)
def test_dropout_acts_in_training_and_not_in_evaluation(rate: str) -> None:
    for kind in BASES:
        model, plain = _model(kind, **{rate: 0.5}), _model(kind)
        assert torch.equal(_run(model), _run(plain))
        model.train()
        torch.manual_seed(0)
        assert not torch.equal(_run(model), _run(model))


def test_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="no mask"):
        _model().blocks[0](torch.ones(1, 9, WIDTH), is_causal=True)
