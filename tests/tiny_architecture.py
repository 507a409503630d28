"""A ViT that exports in a second, under a name of timm's."""

from __future__ import annotations

from typing import Any

import timm
from timm.models import register_model
from torch import nn

NAME = "vit_toy_patch14_dinov2"


@register_model
def vit_toy_patch14_dinov2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DINOv2's ViT, two blocks deep and 32 wide."""
    sizes = {"img_size": 56, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm.create_model("vit_small_patch14_dinov2", pretrained=pretrained, **(sizes | kwargs))
