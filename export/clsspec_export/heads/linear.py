"""A linear head in memory, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clsspec_serve.errors import CheckpointError
from clsspec_serve.heads import AnyHead, DepthHead
from clsspec_serve.manifest import Architecture

BATCH_NORM_EPS = 1e-5
"""torch.nn.BatchNorm2d's, which the official heads keep."""


@dataclass(frozen=True)
class LinearHead:
    """`weight (K, C)` and `bias (K,)` float32 over the concatenated inputs of `description`."""

    description: AnyHead
    weight: Tensor
    bias: Tensor


def rows_of(description: AnyHead) -> int:
    """K, the number of values that a head gives for each token."""
    if isinstance(description, DepthHead):
        return description.bins
    return len(description.classes)


def checked(head: LinearHead, architecture: Architecture, source: str) -> LinearHead:
    """The head in float32, if it fits the backbone; raises `CheckpointError`."""
    inputs = head.description.inputs
    kinds = {output.kind for output in inputs}
    if len(set(inputs)) < len(inputs) or (
        head.description.task != "classify" and "patches" not in kinds
    ):
        raise CheckpointError(
            f"{source} takes {head.description.taken()}; accepted are inputs that differ, with "
            "patches among them for segment and depth"
        )
    expected = (rows_of(head.description), architecture.embed_dim * len(inputs))
    if tuple(head.weight.shape) != expected or tuple(head.bias.shape) != expected[:1]:
        names = " + ".join(output.name for output in inputs)
        raise CheckpointError(
            f"{source} does not fit the backbone: weight {tuple(head.weight.shape)}, bias "
            f"{tuple(head.bias.shape)}; expected {expected} and {expected[:1]} for {names}"
        )
    for name, value in (("weight", head.weight), ("bias", head.bias)):
        if not value.is_floating_point() or not torch.isfinite(value.float()).all():
            raise CheckpointError(f"{source}: its {name} is not made of finite numbers")
    return LinearHead(head.description, head.weight.float(), head.bias.float())


def fold_batch_norm(
    weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor]:
    """`(K, C)` and `(K,)` of a linear layer that follows a BatchNorm in eval mode, as one layer.

    `W (s (x - m) / sqrt(v + eps) + t) + b = (W s / sqrt(v + eps)) x + ...`, in float64.
    """
    weight, bias, scale, shift, mean, variance = (
        value.double() for value in (weight, bias, scale, shift, mean, variance)
    )
    factor = scale / torch.sqrt(variance + BATCH_NORM_EPS)
    return (weight * factor).float(), (bias + weight @ (shift - mean * factor)).float()
