"""timm's own weights: by name from its hub, or a file with timm's keys."""

from __future__ import annotations

import timm
import torch
from timm.models.eva import Eva

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    learned_table,
    load_strict,
)
from clsspec_export.checkpoints.preprocessing import from_timm
from clsspec_export.checkpoints.renaming import Rule, rename
from clsspec_export.specialize import PLAIN, ViT, specialize
from clsspec_serve.errors import CheckpointError, SourceError
from clsspec_serve.manifest import LearnedPosition, RotaryPosition

FORMAT = "timm"

_HEAD = Rule(r"(head|head_dist|fc_norm)\..*", None)
"""A classifier is no part of the features; its norm follows the pooling."""


def read_timm_name(name: str) -> Checkpoint:
    """The pretrained weights of a timm model, which timm downloads.

    Raises `SourceError` when timm has no weights for the name or cannot reach them.
    """
    if not timm.is_model_pretrained(name):
        raise SourceError(f"timm has no pretrained weights for {name!r}")
    try:
        model = create(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        config = timm.get_pretrained_cfg(name)
        where = config.hf_hub_id if config is not None else None
        raise SourceError(
            f"the weights of timm's {name} cannot be downloaded ({' '.join(str(error).split())}); "
            f"fetch hf:{where} on another machine and give the folder's path instead"
        ) from error
    return timm_checkpoint(model, name)


def timm_licence(name: str) -> str | None:
    """The licence of a timm model's weights, as timm states it."""
    config = timm.get_pretrained_cfg(name)
    return None if config is None else config.license


def read_timm_file(state: StateDict, architecture: str, source: str) -> Checkpoint:
    """A state dict with timm's keys for a named architecture.

    The size of the position embedding decides the model's native input size.
    """
    kwargs = {}
    if "pos_embed" in state:
        kwargs["img_size"] = _native_size(state, architecture, source)
    model = create(architecture, **kwargs)
    load_strict(model, rename(state, [_HEAD], source), source)
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
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    patches = state["pos_embed"].shape[1] - prefix
    side = round(max(patches, 1) ** 0.5)
    if side * side != patches:
        raise CheckpointError(
            f"{source}: pos_embed has {patches} patch positions, which is not a square grid"
        )
    return side * int(model.patch_embed.patch_size[0])
