"""Give a timm ViT its own weights per token type, by replacing modules.

Every model that clsspec handles goes through `specialize`, the plain ones with nothing split, so
that timm's `VisionTransformer` and `Eva` end in the same blocks with the same names.
"""

from __future__ import annotations

import copy
from typing import TypeAlias

import torch
from timm.layers import LayerScale
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from clsspec_export.attention import AttentionBias, SpecializedAttention
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Specialization

PLAIN = Specialization(norms=False, final_norm=False, layer_scale=False, qkv_blocks=0)
"""Nothing split: the plain twin."""

ViT: TypeAlias = VisionTransformer | Eva


def paper_specialization(depth: int) -> Specialization:
    """All norms and LayerScales, and QKV in the first `depth // 3` blocks (arXiv 2602.08626)."""
    return Specialization(qkv_blocks=depth // 3)


class Split(nn.Module):
    """Two copies of one layer: `cls` sees the first `boundary` tokens, `patch` all the others.

    `(B, N, C)` in, `(B, N, C')` out. Each copy works on its own tokens only, so the two cost
    together what one costs on all tokens.
    """

    def __init__(self, layer: nn.Module, boundary: int) -> None:
        super().__init__()
        self.cls = layer
        self.patch = copy.deepcopy(layer)
        self.boundary = boundary

    def forward(self, x: Tensor) -> Tensor:
        own, others = x[:, : self.boundary], x[:, self.boundary :]
        return torch.cat([self.cls(own), self.patch(others)], dim=1)


class SpecializedBlock(nn.Module):
    """A pre-norm transformer block whose layers may each be a `Split`.

    `(B, N, D)` in and out; `rope` as `SpecializedAttention` takes it.
    """

    def __init__(
        self,
        *,
        norm1: nn.Module,
        attn: SpecializedAttention,
        ls1: nn.Module,
        drop_path1: nn.Module,
        norm2: nn.Module,
        mlp: nn.Module,
        ls2: nn.Module,
        drop_path2: nn.Module,
    ) -> None:
        super().__init__()
        self.norm1, self.ls1, self.drop_path1 = norm1, ls1, drop_path1
        self.attn: SpecializedAttention = attn
        self.norm2, self.mlp, self.ls2, self.drop_path2 = norm2, mlp, ls2, drop_path2

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """`attn_mask` and `is_causal` are part of timm's call; a ViT here has neither."""
        if attn_mask is not None or is_causal:
            raise ValueError("a specialized block attends to all tokens; it takes no mask")
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), rope=rope)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


def specialize(model: ViT, specialization: Specialization, *, attention_bias: bool = False) -> ViT:
    """Replace the model's blocks in place by specialized ones; return the model.

    Both copies of a split layer start equal, so the outputs do not change. (`attention_bias` adds
    zero k' and v', which do change them: one more token shares the softmax.) Layers that are split
    already stay so; layers that the model does not have are not noted as split. Raises
    `UsageError` for a model without a [CLS] token and for blocks of another kind.
    """
    before = specialization_of(model)
    if before is not None and specialization == PLAIN:
        specialization = before
    if before not in (None, PLAIN) and before.registers_with != specialization.registers_with:
        raise UsageError(f"the model's registers go with its {before.registers_with} weights")
    depth = len(model.blocks)
    if model.cls_token is None:
        raise UsageError("the model has no [CLS] token, so there is nothing to specialize")
    if getattr(model, "dist_token", None) is not None:
        raise UsageError("the model has a distillation token, which is neither [CLS] nor patch")
    if specialization.qkv_blocks > depth:
        raise UsageError(f"qkv_blocks is {specialization.qkv_blocks}; the model has {depth} blocks")
    if not isinstance(model.norm_pre, nn.Identity | nn.LayerNorm):
        raise UsageError(f"norm_pre of type {type(model.norm_pre).__name__} is not supported")

    boundary = model.num_prefix_tokens if specialization.registers_with == "cls" else 1

    def split(layer: nn.Module, wanted: bool) -> nn.Module:
        whole = not isinstance(layer, Split | nn.Identity)
        return Split(layer, boundary) if wanted and whole else layer

    blocks = []
    for index, block in enumerate(model.blocks):
        plain = _plain_block(block, index, model.num_prefix_tokens)
        plain.norm1 = split(plain.norm1, specialization.norms)
        plain.norm2 = split(plain.norm2, specialization.norms)
        plain.ls1 = split(plain.ls1, specialization.layer_scale)
        plain.ls2 = split(plain.ls2, specialization.layer_scale)
        plain.attn.qkv = split(plain.attn.qkv, index < specialization.qkv_blocks)
        if attention_bias and plain.attn.bias is None:
            plain.attn.bias = AttentionBias(plain.attn.num_heads, plain.attn.head_dim)
        blocks.append(plain)
    model.blocks = (
        type(model.blocks)(*blocks)
        if isinstance(model, VisionTransformer)
        else (nn.ModuleList(blocks))
    )
    model.norm = split(model.norm, specialization.final_norm)
    done = specialization.model_copy(
        update={
            "final_norm": isinstance(model.norm, Split),
            "layer_scale": any(isinstance(block.ls1, Split) for block in blocks),
        }
    )
    model.specialization = done if before is None else _union(before, done)
    return model.train(model.training)  # the new modules follow the mode that the model is in


def specialization_of(model: ViT) -> Specialization | None:
    """What `specialize` has done to a model; None for one that it has not seen."""
    found: Specialization | None = getattr(model, "specialization", None)
    return found


def has_attention_bias(model: ViT) -> bool:
    """Whether the model's attention has k', v'."""
    return getattr(model.blocks[0].attn, "bias", None) is not None


def _union(one: Specialization, other: Specialization) -> Specialization:
    return Specialization(
        norms=one.norms or other.norms,
        final_norm=one.final_norm or other.final_norm,
        layer_scale=one.layer_scale or other.layer_scale,
        qkv_blocks=max(one.qkv_blocks, other.qkv_blocks),
        registers_with=other.registers_with,
    )


def _plain_block(block: nn.Module, index: int, prefix: int) -> SpecializedBlock:
    """timm's block in our form, its weights shared with the original; ours as it is."""
    if isinstance(block, SpecializedBlock):
        return block
    attention = getattr(block, "attn", None)
    if isinstance(block, Block) and type(attention) is Attention:
        ls1, ls2 = block.ls1, block.ls2
    elif isinstance(block, EvaBlock) and type(attention) is EvaAttention:
        ls1, ls2 = _layer_scale(block.gamma_1), _layer_scale(block.gamma_2)
    else:
        raise UsageError(
            f"block {index} is a {type(block).__name__} with {type(attention).__name__}; "
            "accepted are timm's Block with Attention and EvaBlock with EvaAttention"
        )
    return SpecializedBlock(
        norm1=block.norm1,
        attn=SpecializedAttention.from_timm(block.attn, prefix),
        ls1=ls1,
        drop_path1=block.drop_path1,
        norm2=block.norm2,
        mlp=block.mlp,
        ls2=ls2,
        drop_path2=block.drop_path2,
    )


def _layer_scale(gamma: nn.Parameter | None) -> nn.Module:
    if gamma is None:
        return nn.Identity()
    scale = LayerScale(gamma.shape[0])
    scale.gamma = gamma
    return scale
