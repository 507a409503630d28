"""DeiT-III's own files."""

from __future__ import annotations

from typing import Any

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    learned_table,
    load_strict,
    require_dimensions,
)
from clsspec_export.checkpoints.preprocessing import DEIT3
from clsspec_export.checkpoints.renaming import Rule, rename
from clsspec_export.specialize import PLAIN, specialize
from clsspec_serve.errors import CheckpointError
from clsspec_serve.manifest import LearnedPosition

FORMAT = "deit3"

_SIZES = {384: "small", 768: "base", 1024: "large", 1280: "huge"}
_RULES = [
    Rule(r"head\..*", None),
    Rule(r"(blocks\.\d+)\.gamma_(\d)", r"\1.ls\2.gamma"),
]


def unwrap(content: dict[Any, Any]) -> dict[Any, Any]:
    """DeiT-III saves its state dict under `model`."""
    inside = content.get("model")
    return inside if isinstance(inside, dict) else content


def is_deit3(state: StateDict) -> bool:
    """Whether the keys are DeiT-III's: LayerScale as bare `gamma_1`, no registers."""
    return "blocks.0.gamma_1" in state and "pos_embed" in state and "reg_token" not in state


def read_deit3(state: StateDict, source: str) -> Checkpoint:
    """A DeiT-III backbone: positions for the patches only, resized bicubic without antialiasing."""
    require_dimensions(state, {"patch_embed.proj.weight": 4, "pos_embed": 3}, source)
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    if width not in _SIZES:
        raise CheckpointError(
            f"{source} is {width} wide; DeiT-III's are {', '.join(map(str, _SIZES))} wide"
        )
    side = round(state["pos_embed"].shape[1] ** 0.5)
    base = "deit3_huge_patch14_224" if width == 1280 else f"deit3_{_SIZES[width]}_patch16_224"
    model = specialize(create(base, img_size=side * patch, patch_size=patch), PLAIN)
    load_strict(model, rename(state, _RULES, source), source)
    size = (side * patch, side * patch)
    return Checkpoint(
        model=model,
        architecture=base,
        format=FORMAT,
        position=LearnedPosition(grid=(side, side), antialias=False),
        table=learned_table(model),
        preprocessing=DEIT3.model_copy(update={"size": size}),
    )
