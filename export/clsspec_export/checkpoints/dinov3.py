"""DINOv3's own files."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import Checkpoint, StateDict, load_strict
from clsspec_export.checkpoints.preprocessing import DINOV3
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
    return {"storage_tokens", "rope_embed.periods"} <= state.keys()


def read_dinov3(state: StateDict, source: str) -> Checkpoint:
    """A DINOv3 backbone, its rotary periods as stored and its key bias masked to zero.

    Some models have a final norm for [CLS] and registers (`cls_norm`) beside that of the patches:
    they come back with the final norm specialized.
    """
    width = state["storage_tokens"].shape[-1]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    gated = "blocks.0.mlp.w1.weight" in state
    if (width, depth, gated) not in NAMES:
        known = ", ".join(f"{w} x {d}{' gated' if g else ''}" for w, d, g in NAMES)
        raise CheckpointError(
            f"{source} is {width} wide and {depth} deep{', gated' if gated else ''}; "
            f"the DINOv3 models known here are {known}"
        )
    name = NAMES[width, depth, gated]
    untied = "cls_norm.weight" in state
    model = converted(name, PLAIN.model_copy(update={"final_norm": untied}))
    masked = {key: _masked_bias(value, state.get(f"{key}_mask")) for key, value in state.items()}
    rules = [*_UNTIED_NORMS, *_RULES] if untied else _RULES
    load_strict(model, rename(masked, rules, source), source)
    periods = state["rope_embed.periods"].float()
    return Checkpoint(
        model=model,
        architecture=name.removesuffix("_qkvb"),
        format=FORMAT,
        position=RotaryPosition(head_dim=4 * periods.numel()),
        table=periods,
        preprocessing=DINOV3,
    )


def converted(name: str, specialization: Specialization = PLAIN, **kwargs: Any) -> Eva:
    """timm's model in our blocks, whose one QKV bias is what DINOv3's files have."""
    model = create(name, **kwargs)
    if not isinstance(model, Eva):
        raise CheckpointError(f"{name} is not a DINOv3 architecture")
    return specialize(model, specialization)


def _masked_bias(value: Tensor, mask: Tensor | None) -> Tensor:
    """The key third of a QKV bias is not trained; the mask beside it is zero there."""
    return value if mask is None else torch.where(mask == 0, 0.0, value * mask)
