"""The optimizer, its learning rate over the steps, and the running average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from indoor_tiny.training.network import DenseNetwork
from indoor_tiny.training.plan import Plan

_LAST = 0.01
"""Share of the full learning rate with which a training ends."""
_BETAS = (0.9, 0.98)
_BLOCKS = "backbone.blocks."
_NOT_DECAYED = ("pos_embed", "cls_token", "attn.bias.")


class Optimizer:
    """Muon for the matrices of the blocks, AdamW for all the rest, at one learning rate.

    Muon (Jordan 2024) makes the update of a matrix orthogonal; scaled to the size of AdamW's
    updates (Liu et al. 2025, arXiv 2502.16982), both want the same rate. Only matrices decay: no
    biases, norms, LayerScales, tokens or positions.
    """

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        blocks: list[nn.Parameter] = []
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in network.named_parameters():
            if parameter.ndim < 2 or any(part in name for part in _NOT_DECAYED):
                others.append(parameter)
            elif parameter.ndim == 2 and _BLOCKS in name:
                blocks.append(parameter)
            else:
                decayed.append(parameter)
        muon = torch.optim.Muon(
            blocks, weight_decay=plan.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
        adamw = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": plan.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            betas=_BETAS,
            fused=True,
        )
        self._both: tuple[torch.optim.Optimizer, ...] = (muon, adamw)

    def step(self, rate: float) -> None:
        """Change the weights by their gradients, which are forgotten then."""
        for each in self._both:
            for group in each.param_groups:
                group["lr"] = rate
            each.step()
            each.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        """Everything on which the next step depends."""
        return [each.state_dict() for each in self._both]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from another optimizer's `state_dict`."""
        for each, state in zip(self._both, states, strict=True):
            each.load_state_dict(state)


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
