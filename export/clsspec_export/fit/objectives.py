"""What each kind of head is trained for, and how it is scored on validation pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from clsspec_export.fit.examples import UPSAMPLE
from clsspec_serve.evaluation.classification_score import ClassificationScore
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.evaluation.depth_score import DepthScore
from clsspec_serve.evaluation.segmentation_score import SegmentationScore
from clsspec_serve.heads import AnyHead, DepthHead, SegmentationHead

LOG_FLOOR = 1e-3
"""Added to depths, in metres, before the logarithm (DINOv2's `sigloss.py`)."""
MEAN_SHARE = 0.15
"""What the squared mean of the log error counts beside its variance (there)."""
_SMALLEST = 1e-8
"""Below this the loss is flat: a root has no slope at 0."""


_CELLS = ", in cells of a quarter patch"
"""What dense figures count, unlike `clsspec eval`, which counts the picture's own pixels."""


@dataclass(frozen=True)
class Figure:
    """A result on validation pictures. `rank`: larger is better. `text`: as people read it."""

    rank: float
    text: str


class Score(Protocol):
    """Sums of what a head answered."""

    def add(self, answer: Tensor, target: Tensor) -> None:
        """The head's outputs for a batch, and their targets."""

    def figure(self) -> Figure:
        """The result. Raises `DatasetError` when nothing was scored."""


class Objective(Protocol):
    """The loss of a head's outputs."""

    def count(self, target: Tensor) -> int:
        """How many parts, equal in weight, the loss of a batch is the mean of."""

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        """The sum over these parts."""

    def score(self) -> Score:
        """A new score."""


def objective(description: AnyHead) -> Objective:
    """The objective of a head's task."""
    if isinstance(description, SegmentationHead):
        return Segment(len(description.classes))
    if isinstance(description, DepthHead):
        return Depth(description.minimum, description.maximum)
    return Classify(len(description.classes))


class Segment:
    """Cross entropy of the enlarged logits `(B, h, w, K)`, over all cells that have a class."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def count(self, target: Tensor) -> int:
        return int((target != IGNORE).sum())

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        logits = enlarged(answer)
        return functional.cross_entropy(logits, target.long(), ignore_index=IGNORE, reduction="sum")

    def score(self) -> Score:
        return _SegmentScore(SegmentationScore(self._classes))


class Depth:
    """The scale-invariant loss of each picture, over the cells with a depth in the range.

    `sqrt(var(g) + 0.15 mean(g)^2)` with `g = log(d + 0.001) - log(truth + 0.001)`: SigLoss of
    DINOv2 (`dinov2/eval/depth/models/losses/sigloss.py`), after Eigen et al. (arXiv 1406.2283) and
    AdaBins. There it is taken over all pictures of a batch at once.
    """

    def __init__(self, minimum: float, maximum: float) -> None:
        self._minimum, self._maximum = minimum, maximum

    def count(self, target: Tensor) -> int:
        return int((self._counts(target).flatten(1).sum(dim=1) > 1).sum())

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        counts = self._counts(target)
        # Not a constant: a batch without depths has a slope, too, of 0.
        total = answer.sum() * 0
        for depth, truth, where in zip(answer, target, counts, strict=True):
            if where.sum() > 1:
                error = torch.log(depth[where] + LOG_FLOOR) - torch.log(truth[where] + LOG_FLOOR)
                square = torch.var(error) + MEAN_SHARE * error.mean() ** 2
                total = total + torch.sqrt(square.clamp_min(_SMALLEST))
        return total

    def score(self) -> Score:
        return _DepthScore(DepthScore(self._minimum, self._maximum))

    def _counts(self, target: Tensor) -> Tensor:
        """As `DepthScore` has it; NaN is in no range."""
        return (target > self._minimum) & (target < self._maximum)


class Classify:
    """Cross entropy of the logits `(B, K)`."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def count(self, target: Tensor) -> int:
        return len(target)

    def loss(self, answer: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(answer, target.long(), reduction="sum")

    def score(self) -> Score:
        return _ClassifyScore(ClassificationScore(self._classes))


def enlarged(logits: Tensor) -> Tensor:
    """`(B, h, w, K)` to `(B, K, u*h, u*w)`, bilinearly, as the answers are at inference."""
    channels = logits.permute(0, 3, 1, 2)
    return functional.interpolate(channels, scale_factor=float(UPSAMPLE), mode="bilinear")


def percent(share: float) -> str:
    """A share in 0..1 as people read it."""
    return f"{100 * share:.1f} %"


class _SegmentScore:
    def __init__(self, score: SegmentationScore) -> None:
        self._score = score

    def add(self, answer: Tensor, target: Tensor) -> None:
        for ids, truth in zip(enlarged(answer).argmax(dim=1), target, strict=True):
            self._score.add(ids.numpy(), truth.numpy())

    def figure(self) -> Figure:
        found = self._score.result()
        text = f"mIoU {percent(found.mean_iou)}, accuracy {percent(found.pixel_accuracy)}{_CELLS}"
        return Figure(found.mean_iou, text)


class _DepthScore:
    def __init__(self, score: DepthScore) -> None:
        self._score = score

    def add(self, answer: Tensor, target: Tensor) -> None:
        for depth, truth in zip(answer, target, strict=True):
            self._score.add(depth.numpy(), truth.numpy())

    def figure(self) -> Figure:
        found = self._score.result()
        text = f"RMSE {found.rmse:.3g} m, δ1 {percent(found.delta1)}{_CELLS}"
        return Figure(-found.rmse, text)


class _ClassifyScore:
    def __init__(self, score: ClassificationScore) -> None:
        self._score = score

    def add(self, answer: Tensor, target: Tensor) -> None:
        self._score.add(answer.numpy(), target.numpy())

    def figure(self) -> Figure:
        found = self._score.result()
        return Figure(found.top1, f"top-1 {percent(found.top1)}")
