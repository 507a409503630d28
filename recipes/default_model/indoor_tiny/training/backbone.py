"""The network that is kept: timm's smallest ViT with the paper's split, or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from clsspec_export.architectures import create
from clsspec_export.checkpoints.native import save_native
from clsspec_export.specialize import PLAIN, ViT, paper_specialization, specialize
from clsspec_serve.manifest import Preprocessing
from indoor_tiny.training.plan import Plan

ARCHITECTURE: Final = "vit_tiny_patch16_224"
MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)

_PERIODS = (0.25, 4.0)
"""Shortest and longest wave of the first position embedding, in sides of the picture."""
_AMPLITUDE = 0.3
"""Of the first position embedding; about the size of a patch's first embedding."""


def new_backbone(plan: Plan) -> ViT:
    """An untrained backbone, in training mode; plain and specialized start in the same weights."""
    torch.manual_seed(plan.seed)
    model = create(ARCHITECTURE, **arguments(plan), drop_path_rate=plan.drop_path)
    with torch.no_grad():
        model.pos_embed[:, :1] = 0
        model.pos_embed[:, 1:] = _waves(model.patch_embed.grid_size, model.embed_dim)
    _keep_variance(model.blocks)
    split = paper_specialization(len(model.blocks)) if plan.specialized else PLAIN
    return specialize(model, split, attention_bias=True).train()


def save_backbone(model: ViT, plan: Plan, frames: int, path: Path) -> None:
    """Write the backbone for `clsspec export`. `frames`: how many it was trained on."""
    preprocessing = Preprocessing(
        size=(plan.last_side, plan.last_side),
        policy="fit",
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
    )
    save_native(
        model,
        path,
        architecture=ARCHITECTURE,
        arguments=arguments(plan),
        preprocessing=preprocessing,
        description=f"trained on {frames:,} pictures of rendered rooms and nothing else",
        licence="Apache-2.0",
    )


def arguments(plan: Plan) -> dict[str, Any]:
    """What `timm.create_model` gets beside the name."""
    return {
        "img_size": plan.last_side,
        "dynamic_img_size": True,
        "init_values": plan.layer_scale,
    }


def normalized(images: Tensor) -> Tensor:
    """`(B, H, W, 3) uint8` to the backbone's input, `(B, 3, H, W) float32`."""
    mean, std = (255 * torch.tensor(values) for values in (MEAN, STD))
    return ((images - mean) / std).permute(0, 3, 1, 2)


def _keep_variance(blocks: nn.Module) -> None:
    """First weights with which a layer's outputs are as large as its inputs.

    timm's 0.02 is made for larger widths; at 192 the loss then lags behind for hundreds of steps.
    """
    for layer in blocks.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)


def _waves(grid: tuple[int, int], width: int) -> Tensor:
    """`(1, h * w, D)`: sines and cosines of the patches' rows and columns."""
    shortest, longest = _PERIODS
    periods = shortest * (longest / shortest) ** torch.linspace(0, 1, width // 4)
    parts = []
    for axis, count in enumerate(grid):
        places = (torch.arange(count) + 0.5) / count
        angles = 2 * torch.pi * places[:, None] / periods
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        parts.append(waves[:, None] if axis == 0 else waves[None])
    rows, columns = (part.expand(*grid, -1) for part in parts)
    return _AMPLITUDE * torch.cat([rows, columns], dim=-1).reshape(1, grid[0] * grid[1], -1)
