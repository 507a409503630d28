"""How wrong answers are: six parts that the plan weighs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from indoor_tiny.classes import CLASSES
from indoor_tiny.frames import Frames
from indoor_tiny.training.loader import Batch
from indoor_tiny.training.network import Answers
from indoor_tiny.training.plan import Plan

_SCALES = 3
_COUNTED = 256


def losses(answers: Answers, batch: Batch, plan: Plan, class_weights: Tensor) -> dict[str, Tensor]:
    """The parts of the loss, weighed: their sum is what is minimised. `class_weights`: `(17,)`."""
    classes = batch.classes.long()
    share = functional.one_hot(classes, len(CLASSES)).float().mean(dim=(1, 2))
    valid = batch.depth > 0
    difference = answers.log_depth - batch.depth.clamp(min=0.05).log()
    parts = {
        "class": functional.cross_entropy(answers.classes, classes, class_weights),
        "depth": masked_mean(difference.abs(), valid),
        "gradient": gradient_matching(difference, valid),
        "room": functional.cross_entropy(answers.room, batch.rooms),
        "presence": functional.binary_cross_entropy_with_logits(
            answers.presence, (share > 0).float()
        ),
        "share": functional.kl_div(answers.share.log_softmax(dim=1), share, reduction="batchmean"),
    }
    return {name: getattr(plan, f"{name}_weight") * part for name, part in parts.items()}


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of the valid values; 0 where there are none."""
    return (values * valid).sum() / valid.sum().clamp(min=1)


def gradient_matching(difference: Tensor, valid: Tensor) -> Tensor:
    """How uneven the error of the log depth `(B, s, s)` is, whatever its mean.

    The sum over three scales, each half as fine, of the mean absolute differences of neighbours:
    edges and slopes count, a wrong overall scale does not (Li and Snavely, *MegaDepth*, 2018).
    """
    total = difference.new_zeros(())
    for scale in range(_SCALES):
        step = 2**scale
        part, known = difference[:, ::step, ::step], valid[:, ::step, ::step]
        for axis in (1, 2):
            pairs = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(
                axis, 0, known.shape[axis] - 1
            )
            total = total + masked_mean(part.diff(dim=axis).abs(), pairs)
    return total


def weights_by_frequency(shards: Sequence[Frames], balance: float) -> Tensor:
    """`(17,)`: how much a cell of each class counts, 1 on average over the cells.

    Frequencies are those of a few hundred frames, evenly spread.
    """
    counts = np.ones(len(CLASSES))
    for shard in shards:
        stride = max(1, len(shard) * len(shards) // _COUNTED)
        for classes in shard.classes[::stride]:
            counts += np.bincount(classes.ravel(), minlength=len(CLASSES))
    frequency = counts / counts.sum()
    weights = frequency**-balance
    return torch.tensor(weights / (weights * frequency).sum(), dtype=torch.float32)
