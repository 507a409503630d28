"""What Hugging Face's ViTs have in common: q, k, v apart, and settings that must be checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from clsspec_export.checkpoints.checkpoint import StateDict
from clsspec_serve.errors import CheckpointError

Config = Mapping[str, Any]


def join_qkv(state: StateDict, template: str, parts: Mapping[str, bool], source: str) -> StateDict:
    """Join each block's q, k, v tensors into `blocks.N.attn.qkv`.

    `template` is a key's beginning with `{block}` and `{part}`, such as
    `layer.{block}.attention.{part}_proj`; `parts` says of each part in order whether it has a
    bias, without which its share of the joined one is zero. A block that lacks one of the tensors
    is left as it is, for `load_strict` to list.
    """
    joined, block = dict(state), 0
    while any(f"{template.format(block=block, part=part)}.weight" in state for part in parts):
        names = {template.format(block=block, part=part): has for part, has in parts.items()}
        weights = [f"{name}.weight" for name in names]
        biases = [f"{name}.bias" for name, has in names.items() if has]
        if all(key in state for key in (*weights, *biases)):
            qkv = [joined.pop(key) for key in weights]
            if len({tuple(weight.shape) for weight in qkv}) != 1 or qkv[0].ndim != 2:
                shapes = ", ".join(str(tuple(weight.shape)) for weight in qkv)
                raise CheckpointError(f"{source}: {', '.join(weights)} have shapes {shapes}")
            joined[f"blocks.{block}.attn.qkv.weight"] = torch.cat(qkv)
            if biases:
                joined[f"blocks.{block}.attn.qkv.bias"] = torch.cat(
                    [
                        joined.pop(f"{name}.bias") if has else qkv[0].new_zeros(qkv[0].shape[0])
                        for name, has in names.items()
                    ]
                )
        block += 1
    return joined


def square(config: Config, field: str, source: str) -> int:
    """A size that the configuration gives as one number, or as two equal ones."""
    value = config[field]
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise CheckpointError(f"{source}: {field} {value} is not square")
    return int(sides.pop())


def require_activation(config: Config, accepted: str, source: str) -> None:
    """Refuse an MLP with another activation than all published models have."""
    found = config.get("hidden_act", accepted)
    if found != accepted:
        raise CheckpointError(f"{source}: hidden_act {found!r}; accepted is {accepted!r}")
