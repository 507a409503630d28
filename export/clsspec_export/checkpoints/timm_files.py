"""timm's own weights: by name from its hub, or a file with timm's keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.eva import Eva

from clsspec_export.architectures import create, require_vit
from clsspec_export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    learned_table,
    load_strict,
    require_dimensions,
)
from clsspec_export.checkpoints.files import read_json
from clsspec_export.checkpoints.preprocessing import from_timm
from clsspec_export.specialize import PLAIN, ViT, specialize
from clsspec_serve.errors import CheckpointError, SourceError, one_line
from clsspec_serve.hub import HubRef
from clsspec_serve.manifest import LearnedPosition, RotaryPosition

FORMAT = "timm"

_HEAD = re.compile(r"(head|head_dist|fc_norm)\..*")
"""A classifier is no part of the features; its norm follows the pooling."""


def timm_repository(name: str) -> tuple[HubRef, str | None]:
    """Where the Hub has the pretrained weights of a timm model, and their licence."""
    config = timm.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None
    if config is None or not config.hf_hub_id:
        raise SourceError(f"timm has no pretrained weights on the Hub for {name!r}")
    return HubRef(config.hf_hub_id, None), config.license


def read_timm_folder(folder: Path) -> Checkpoint:
    """A folder of timm's on the Hub, loaded by timm: `config.json` and the weights beside it.

    The configuration's own preprocessing goes before that of the architecture.
    """
    config = read_json(folder / "config.json")
    try:
        # With the classifier it was saved with: for another timm would load loosely.
        model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"timm cannot load {folder}: {one_line(error)}") from error
    model = require_vit(model.eval(), str(folder))
    model.reset_classifier(0)
    return timm_checkpoint(model, config["architecture"])


def unwrap(content: dict[str, Any]) -> dict[str, Any]:
    """The state dict out of a training run's file: the averaged weights where it has them."""
    for wrapper in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(content.get(wrapper), dict):
            inner: dict[str, Any] = content[wrapper]
            return {key.removeprefix("module."): value for key, value in inner.items()}
    return content


def read_timm_file(state: StateDict, architecture: str, source: str) -> Checkpoint:
    """A state dict with timm's keys for a named architecture.

    The size of the position embedding decides the model's native input size.
    """
    kwargs = {}
    if "pos_embed" in state:
        kwargs["img_size"] = _native_size(state, architecture, source)
    model = create(architecture, **kwargs)
    known = model.state_dict().keys()  # average-pooled models keep their fc_norm
    state = {key: v for key, v in state.items() if key in known or not _HEAD.fullmatch(key)}
    load_strict(model, state, source)
    return timm_checkpoint(model, architecture)


def timm_checkpoint(model: ViT, architecture: str) -> Checkpoint:
    """A timm model with its weights loaded, described: timm's resize rule, its preprocessing."""
    position, table = timm_position(model)
    return Checkpoint(
        model=specialize(model, PLAIN),
        architecture=architecture,
        format=FORMAT,
        position=position,
        table=table,
        preprocessing=from_timm(model),
    )


def timm_position(model: ViT) -> tuple[LearnedPosition | RotaryPosition, torch.Tensor]:
    """timm's rule (bicubic by size, antialiased; or DINOv3's rotary one) and what it resizes."""
    rope = model.rope if isinstance(model, Eva) else None
    if rope is None:
        if model.pos_embed is None:
            raise CheckpointError("a ViT without any position embedding is not supported")
        grid = model.patch_embed.grid_size
        return LearnedPosition(grid=grid, antialias=True), learned_table(model)
    if model.pos_embed is not None or not hasattr(rope, "periods") or not rope.rotate_half:
        raise CheckpointError("of timm's rotary embeddings only DINOv3's alone is supported")
    periods = rope.periods.detach().float().clone()
    return RotaryPosition(head_dim=4 * periods.numel()), periods


def _native_size(state: StateDict, architecture: str, source: str) -> int:
    with torch.device("meta"):
        model = create(architecture)
    if model.pos_embed is None:
        raise CheckpointError(f"{source} has a pos_embed; {architecture} has none")
    require_dimensions(state, {"pos_embed": 3}, source)
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    patches = state["pos_embed"].shape[1] - prefix
    side = round(max(patches, 1) ** 0.5)
    if side * side != patches:
        raise CheckpointError(
            f"{source}: pos_embed has {patches} patch positions, which is not a square grid"
        )
    return side * int(model.patch_embed.patch_size[0])
