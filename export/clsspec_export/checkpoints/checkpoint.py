"""What every reader returns, and the strict loading that every reader ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clsspec_export.specialize import ViT
from clsspec_serve.choices import Storage
from clsspec_serve.errors import CheckpointError
from clsspec_serve.manifest import LearnedPosition, Preprocessing, RotaryPosition

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    `model` is in eval mode, fp32, its weights loaded, its blocks ours (`specialize`). `table` is
    what the position rule resizes: `(h0, w0, D)` for a learned map, the `(head_dim / 4,)` periods
    for a rotary one. `description` says in a sentence what the model was trained on, `licence`
    under which licence its file puts it. `storage` is the precision that its matrices are rounded
    to.
    """

    model: ViT
    architecture: str
    format: str
    position: LearnedPosition | RotaryPosition
    table: Tensor
    preprocessing: Preprocessing
    description: str | None = None
    licence: str | None = None
    storage: Storage = "fp32"


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint came from, for the bundle's provenance."""

    source: str
    sha256: str | None = None
    licence: str | None = None
    licence_text: str | None = None


def load_strict(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `model`, where every key and every shape must agree.

    Raises `CheckpointError` with both lists: what the model needs and the checkpoint lacks, and
    what the checkpoint has and the model does not know.
    """
    needed = model.state_dict()
    missing = sorted(needed.keys() - state.keys())
    unexpected = sorted(state.keys() - needed.keys())
    if missing or unexpected:
        parts = []
        if missing:
            parts.append(f"missing {len(missing)}: {_shorten(missing)}")
        if unexpected:
            parts.append(f"unexpected {len(unexpected)}: {_shorten(unexpected)}")
        raise CheckpointError(f"{source} does not fit the architecture; {'; '.join(parts)}")
    wrong = [
        f"{key} has shape {tuple(state[key].shape)}, expected {tuple(needed[key].shape)}"
        for key in needed
        if state[key].shape != needed[key].shape
    ]
    if wrong:
        raise CheckpointError(f"{source} does not fit the architecture; {_shorten(wrong)}")
    whole = [key for key, value in state.items() if not value.is_floating_point()]
    if whole:
        raise CheckpointError(f"{source} holds quantized or integer weights in {_shorten(whole)}")
    bad = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if bad:
        raise CheckpointError(f"{source} holds NaN or infinite values in {_shorten(bad)}")
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=True)


def require_dimensions(state: StateDict, dimensions: Mapping[str, int], source: str) -> None:
    """Refuse tensors that a reader could not even measure; `dimensions` counts those of each."""
    for key, count in dimensions.items():
        if key not in state:
            raise CheckpointError(f"{source} does not fit the architecture; missing 1: {key}")
        if state[key].ndim != count:
            raise CheckpointError(
                f"{source} does not fit the architecture; {key} has shape "
                f"{tuple(state[key].shape)}, expected {count} dimensions"
            )


def rotary_table(periods: Tensor, model: ViT, source: str) -> Tensor:
    """`(head_dim / 4,)` float32: the stored periods, if they fit the model's heads."""
    expected = (model.blocks[0].attn.head_dim // 4,)
    if periods.shape != expected:
        raise CheckpointError(
            f"{source} does not fit the architecture; the rotary periods have shape "
            f"{tuple(periods.shape)}, expected {expected}"
        )
    if not torch.isfinite(periods).all() or not (periods != 0).all():
        raise CheckpointError(f"{source} holds zero, NaN or infinite values in the rotary periods")
    return periods.float()


def learned_table(model: ViT) -> Tensor:
    """`(h0, w0, D)`: the patches' part of the model's position embedding."""
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    rows, columns = model.patch_embed.grid_size
    return model.pos_embed.detach()[0, prefix:].reshape(rows, columns, -1).clone()


def without_register_positions(state: StateDict, source: str) -> StateDict:
    """Move the [CLS] position into the token, as timm keeps it for models with registers.

    DINOv2's registers have no position; timm then leaves the whole prefix out of the table.
    """
    require_dimensions(state, {"cls_token": 3, "pos_embed": 3}, source)
    cls_token, position = state["cls_token"], state["pos_embed"]
    if cls_token.shape[-1] != position.shape[-1]:
        raise CheckpointError(
            f"{source} does not fit the architecture; cls_token has shape "
            f"{tuple(cls_token.shape)}, pos_embed {tuple(position.shape)}"
        )
    return state | {
        "cls_token": cls_token + position[:, :1],
        "pos_embed": position[:, 1:],
    }


def _shorten(items: list[str], most: int = 8) -> str:
    rest = f" … and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest
