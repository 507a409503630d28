"""DINOv2's own files: the hub's, and those of a training run with its code."""

from __future__ import annotations

import re
from typing import Any

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    learned_table,
    load_strict,
    require_dimensions,
    without_register_positions,
)
from clsspec_export.checkpoints.preprocessing import DINOV2
from clsspec_export.checkpoints.renaming import Rule, rename
from clsspec_export.specialize import PLAIN, specialize
from clsspec_serve.errors import CheckpointError
from clsspec_serve.manifest import LearnedPosition

FORMAT = "dinov2"

SIZES = {384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}
"""The size in timm's names by width."""

_WRAPPERS = ("module", "_fsdp_wrapped_module", "_orig_mod")
"""What DataParallel, FSDP and torch.compile put between the parts of a name."""

_RULES = [
    Rule(r"mask_token", None),
    Rule(r"register_tokens", "reg_token"),
    Rule(r"(blocks\.\d+\.mlp\.)w12\.(.*)", r"\1fc1.\2"),
    Rule(r"(blocks\.\d+\.mlp\.)w3\.(.*)", r"\1fc2.\2"),
]


def is_dinov2(state: StateDict) -> bool:
    """Whether unwrapped keys are DINOv2's: timm's, and the mask token of its training."""
    return "mask_token" in state


def unwrap(content: Any) -> StateDict:
    """The backbone's tensors out of a training run's wrappers, blocks unchunked.

    Takes `{"teacher": {"backbone.*"}}` and `{"model": {"teacher.backbone.*"}}`, with FSDP's and
    DataParallel's prefixes. A student in the same file is left out; DINO and iBOT heads, which
    only training needs, too.
    """
    for wrapper in ("teacher", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    state: StateDict = {}
    for key, value in content.items():
        clean = _clean(key)
        if clean in state:
            raise CheckpointError(f"two tensors are called {clean}, one of them {key}")
        state[clean] = value
    for prefix in ("teacher.backbone.", "backbone."):
        inside = {key[len(prefix) :]: v for key, v in state.items() if key.startswith(prefix)}
        if inside:
            state = inside
            break
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", key): v for key, v in state.items()}


def is_training_file(content: Any) -> bool:
    """Whether a file has a training run's wrappers; the hub's have the bare backbone."""
    return isinstance(content, dict) and any(
        isinstance(content.get(wrapper), dict) for wrapper in ("teacher", "model")
    )


def read_dinov2(
    state: StateDict, source: str, architecture: str | None = None, *, trained: bool = False
) -> Checkpoint:
    """An unwrapped DINOv2 backbone; the architecture follows from the tensors unless named.

    Position rule: bicubic by `(h + 0.1) / h0` without antialiasing, which is the default of the
    code and of its training runs (`trained`); the hub's models with registers are configured for
    bicubic by size with antialiasing.
    """
    require_dimensions(state, {"patch_embed.proj.weight": 4, "pos_embed": 3}, source)
    registers = "register_tokens" in state
    name = architecture or _architecture(state, source)
    patch = state["patch_embed.proj.weight"].shape[-1]
    side = round(max(state["pos_embed"].shape[1] - 1, 1) ** 0.5)
    model = specialize(create(name, img_size=side * patch), PLAIN)
    state = rename(state, _RULES, source)
    load_strict(model, without_register_positions(state, source) if registers else state, source)
    by_size = registers and not trained
    rule = LearnedPosition(grid=(side, side), antialias=by_size, offset=0.0 if by_size else 0.1)
    return Checkpoint(
        model=model,
        architecture=name,
        format=FORMAT,
        position=rule,
        table=learned_table(model),
        preprocessing=DINOV2,
    )


def _architecture(state: StateDict, source: str) -> str:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    if width not in SIZES or patch != 14:
        raise CheckpointError(
            f"{source} is {width} wide with patch {patch}; DINOv2's are "
            f"{', '.join(map(str, SIZES))} wide with patch 14; name others with --arch"
        )
    registers = "_reg4" if "register_tokens" in state else ""
    return f"vit_{SIZES[width]}_patch14{registers}_dinov2"


def _clean(key: str) -> str:
    parts = str(key).split(".")
    return ".".join(part for part in parts if part not in _WRAPPERS)
