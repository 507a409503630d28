"""A backbone whose products are computed in half precision, as PyTorch's autocast does it.

Weights of products and what goes into them, attention included, are bf16 or fp16. The residual
stream, norms and LayerScale stay float32, as DINOv2's few large tokens are beyond fp16, and so do
the outputs. TensorRT takes the precision from the graph alone.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clsspec_export.backbone import Backbone
from clsspec_export.specialize import SpecializedBlock
from clsspec_serve.choices import Precision

_NORMS = ("q_norm", "k_norm", "norm")
DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


class HalfLinear(nn.Module):
    """`(..., in)` of any type to `(..., out)` in the weight's."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features = layer.in_features
        self.weight = nn.Parameter(layer.weight.to(dtype), requires_grad=False)
        self.bias = (
            None if layer.bias is None else nn.Parameter(layer.bias.to(dtype), requires_grad=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


class WholeNorm(nn.Module):
    """A norm between two products, of q and k or inside of an MLP: in float32, as all others.

    ONNX has no norm of half precision with weights in float32.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)


def in_half(backbone: Backbone, precision: Precision) -> Backbone:
    """A copy that computes its products in `bf16` or `fp16`."""
    half = copy.deepcopy(backbone)
    for module in [*half.modules()]:
        for name, layer in [*module.named_children()]:
            if isinstance(layer, nn.Linear):
                setattr(module, name, HalfLinear(layer, DTYPES[precision]))
    for block in half.blocks:
        block = cast(SpecializedBlock, block)
        for inner in (block.attn, block.mlp):
            for name, layer in [*inner.named_children()]:
                if name in _NORMS and not isinstance(layer, nn.Identity):
                    setattr(inner, name, WholeNorm(layer))
    return half
