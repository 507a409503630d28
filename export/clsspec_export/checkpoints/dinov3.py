"""DINOv3's own files."""

from __future__ import annotations

import re
from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    load_strict,
    require_dimensions,
    rotary_table,
)
from clsspec_export.checkpoints.preprocessing import DINOV3, DINOV3_SAT
from clsspec_export.checkpoints.renaming import Rule, rename
from clsspec_export.specialize import PLAIN, specialize
from clsspec_serve.errors import CheckpointError
from clsspec_serve.manifest import RotaryPosition, Specialization

FORMAT = "dinov3"

NAMES = {
    (384, 12, False): "vit_small_patch16_dinov3_qkvb",
    (384, 12, True): "vit_small_plus_patch16_dinov3_qkvb",
    (768, 12, False): "vit_base_patch16_dinov3_qkvb",
    (1024, 24, False): "vit_large_patch16_dinov3_qkvb",
    (1280, 32, True): "vit_huge_plus_patch16_dinov3_qkvb",
}
"""timm's name by width, depth and whether the MLP is gated."""

_RULES = [
    Rule(r"mask_token|rope_embed\.periods|local_cls_norm\..*|.*\.qkv\.bias_mask", None),
    Rule(r"storage_tokens", "reg_token"),
    Rule(r"(blocks\.\d+\.mlp\.)w1\.(.*)", r"\1fc1_g.\2"),
    Rule(r"(blocks\.\d+\.mlp\.)w2\.(.*)", r"\1fc1_x.\2"),
    Rule(r"(blocks\.\d+\.mlp\.)w3\.(.*)", r"\1fc2.\2"),
]
_UNTIED_NORMS = [
    Rule(r"cls_norm\.(.*)", r"norm.cls.\1"),
    Rule(r"norm\.(.*)", r"norm.patch.\1"),
]


def is_dinov3(state: StateDict) -> bool:
    """Whether the keys are those of DINOv3's own code."""
    return not state.keys().isdisjoint({"storage_tokens", "rope_embed.periods"})


def read_dinov3(state: StateDict, source: str) -> Checkpoint:
    """A DINOv3 backbone, its rotary periods as stored and its key bias masked to zero.

    Some models have a final norm for [CLS] and registers (`cls_norm`) beside that of the patches:
    they come back with the final norm specialized.
    """
    require_dimensions(state, {"storage_tokens": 3, "rope_embed.periods": 1}, source)
    width = state["storage_tokens"].shape[-1]
    blocks = (re.match(r"blocks\.(\d+)\.", key) for key in state)
    depth = 1 + max((int(block[1]) for block in blocks if block), default=-1)
    gated = "blocks.0.mlp.w1.weight" in state
    if (width, depth, gated) not in NAMES:
        known = ", ".join(f"{w} x {d}{' gated' if g else ''}" for w, d, g in NAMES)
        raise CheckpointError(
            f"{source} is {width} wide and {depth} deep{', gated' if gated else ''}; "
            f"the DINOv3 models known here are {known}"
        )
    name = NAMES[width, depth, gated]
    # Of these sizes only the model for satellite images was trained with a norm for local crops.
    satellite = any(key.startswith("local_cls_norm.") for key in state)
    untied = any(key.startswith("cls_norm.") for key in state)
    model = converted(name, PLAIN.model_copy(update={"final_norm": untied}))
    masked = {key: _masked_bias(key, value, state, source) for key, value in state.items()}
    rules = [*_UNTIED_NORMS, *_RULES] if untied else _RULES
    load_strict(model, rename(masked, rules, source), source)
    periods = rotary_table(state["rope_embed.periods"], model, source)
    return Checkpoint(
        model=model,
        architecture=name.removesuffix("_qkvb"),
        format=FORMAT,
        position=RotaryPosition(head_dim=4 * periods.numel()),
        table=periods,
        preprocessing=DINOV3_SAT if satellite else DINOV3,
    )


def converted(name: str, specialization: Specialization = PLAIN, **kwargs: Any) -> Eva:
    """timm's model in our blocks, whose one QKV bias is what DINOv3's files have."""
    model = create(name, **kwargs)
    if not isinstance(model, Eva):
        raise CheckpointError(f"{name} is not a DINOv3 architecture")
    return specialize(model, specialization)


def _masked_bias(key: str, value: Tensor, state: StateDict, source: str) -> Tensor:
    """The key third of a QKV bias is not trained; the mask beside it is zero there."""
    mask = state.get(f"{key}_mask")
    if mask is None:
        return value
    if mask.shape != value.shape:
        raise CheckpointError(
            f"{source} does not fit the architecture; {key} has shape {tuple(value.shape)}, "
            f"its mask {tuple(mask.shape)}"
        )
    return torch.where(mask == 0, 0.0, value * mask)
