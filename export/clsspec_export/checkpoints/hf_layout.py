"""What Hugging Face's ViTs have in common: q, k, v apart, and settings that must be checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from clsspec_export.checkpoints.checkpoint import StateDict
from clsspec_serve.errors import CheckpointError

Config = Mapping[str, Any]


def join_qkv(state: StateDict, template: str, parts: tuple[str, str, str]) -> StateDict:
    """Join each block's q, k, v tensors into `blocks.N.attn.qkv`; a missing bias is zero.

    `template` is a key's beginning with `{block}` and `{part}`, such as
    `layer.{block}.attention.{part}_proj`; a block that lacks one of the weights is left as it is.
    """
    joined, block = dict(state), 0
    while (first := template.format(block=block, part=parts[0])) + ".weight" in state:
        names = [first, *(template.format(block=block, part=part) for part in parts[1:])]
        if all(f"{name}.weight" in joined for name in names):
            weights = [joined.pop(f"{name}.weight") for name in names]
            biases = [joined.pop(f"{name}.bias", None) for name in names]
            joined[f"blocks.{block}.attn.qkv.weight"] = torch.cat(weights)
            if any(bias is not None for bias in biases):
                joined[f"blocks.{block}.attn.qkv.bias"] = torch.cat(
                    [
                        weight.new_zeros(weight.shape[0]) if bias is None else bias
                        for weight, bias in zip(weights, biases, strict=True)
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
