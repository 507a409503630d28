"""AdamW, its learning rate over the steps, and the running average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from indoor_tiny.training.network import DenseNetwork
from indoor_tiny.training.plan import Plan

_LAST = 0.01
"""Share of the full learning rate with which a training ends."""
_BETAS = (0.9, 0.98)
_NOT_DECAYED = ("pos_embed", "cls_token", "attn.bias.")


def new_optimizer(network: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """Only matrices decay: no biases, norms, LayerScales, tokens or positions."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        free = parameter.ndim < 2 or any(part in name for part in _NOT_DECAYED)
        (others if free else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.rate, betas=_BETAS, fused=True)


def rate_at(step: int, plan: Plan) -> float:
    """The learning rate of a step: a straight rise, then a cosine."""
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    done = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    return plan.rate * (_LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * done)))


def new_average(network: DenseNetwork, plan: Plan) -> AveragedModel:
    """The exponential average of the weights, shorter at first to forget where they began."""

    def average(kept: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        seen = float(count)
        return kept.lerp(current, 1 - min(plan.average, (1 + seen) / (10 + seen)))

    return AveragedModel(network, avg_fn=average)


def averaged(average: AveragedModel) -> DenseNetwork:
    """The network with the averaged weights, in evaluation mode."""
    network = average.module
    if not isinstance(network, DenseNetwork):
        raise TypeError(f"averaged is a {type(network).__name__}; accepted is a DenseNetwork")
    return network.eval()
