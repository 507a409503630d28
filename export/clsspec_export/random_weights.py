"""Random weights that leave no parameter without effect on the outputs."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter from a seeded normal distribution, in place.

    timm's own initialisation leaves biases at zero, norms at one and LayerScales at 1e-5, so that
    a swapped or forgotten tensor would not show. Scales keep the activations of order one.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("gamma") or "gamma_" in name:
            value = 0.3 + 0.1 * noise
        elif parameter.ndim == 1 and name.endswith("weight"):
            value = 1 + 0.2 * noise
        elif parameter.ndim >= 2 and name.endswith("weight"):
            value = noise / math.sqrt(parameter[0].numel())
        elif name.endswith("bias"):
            value = 0.2 * noise
        else:
            value = 0.5 * noise
        parameter.copy_(value)
