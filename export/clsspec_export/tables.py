"""The specialized backbone as OpenVINO runs it best: one stream, a row of weights for each token.

A split norm is one norm without weights, then times and plus tables whose rows are those of [CLS]
or those of patches; LayerScale likewise. So nothing is sliced and joined but around a split QKV,
and OpenVINO's norms, products and sums take the tables in as they go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from timm.layers import LayerScale
from torch import Tensor, nn
from torch.nn import functional

from clsspec_export.backbone import Backbone, Tokens
from clsspec_export.specialize import SpecializedBlock, Split, ViT


class TabledBackbone(Backbone):
    """The same function as `Backbone`, for inference."""

    def encode(self, tokens: Tokens, position: Tensor) -> Iterator[tuple[int, bool, Tokens]]:
        """See `Backbone.encode`."""
        rope = position if self.rotary else None
        x = self.norm_pre(torch.cat(tokens, dim=1))
        prefix = self.prefix.shape[1]
        boundary = next(m.boundary for m in self.blocks.modules() if isinstance(m, Split))
        own = (torch.arange(x.shape[1]) < boundary).unsqueeze(-1)  # (N, 1)
        for layer, block in enumerate(self.blocks):
            block = cast(SpecializedBlock, block)
            x = x + _scaled(block.ls1, block.attn(_normed(block.norm1, x, own), rope), own)
            x = x + _scaled(block.ls2, block.mlp(_normed(block.norm2, x, own)), own)
            for norm in self.wanted(layer):
                y = _normed(self.norm, x, own) if norm else x
                yield layer, norm, (y[:, :prefix], y[:, prefix:])


def fits_tables(model: ViT) -> bool:
    """Whether all split norms are layer norms with a weight and a bias, and so have tables."""
    splits = (module for module in model.modules() if isinstance(module, Split))
    norms = (each.cls for each in splits if not isinstance(each.cls, nn.Linear | LayerScale))
    return all(isinstance(norm, nn.LayerNorm) and norm.bias is not None for norm in norms)


def _normed(norm: nn.Module, x: Tensor, own: Tensor) -> Tensor:
    if not isinstance(norm, Split):
        return norm(x)
    cls, patch = (cast(nn.LayerNorm, each) for each in (norm.cls, norm.patch))
    x = functional.layer_norm(x, cls.normalized_shape, eps=cls.eps)
    return x * torch.where(own, cls.weight, patch.weight) + torch.where(own, cls.bias, patch.bias)


def _scaled(scale: nn.Module, x: Tensor, own: Tensor) -> Tensor:
    if not isinstance(scale, Split):
        return scale(x)
    cls, patch = (cast(LayerScale, each) for each in (scale.cls, scale.patch))
    return x * torch.where(own, cls.gamma, patch.gamma)
