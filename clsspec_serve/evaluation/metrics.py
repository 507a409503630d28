"""Results as numbers with names and units, in the units in which papers print them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from clsspec_serve.evaluation.classification_score import ClassificationResult
from clsspec_serve.evaluation.cls_neighbours import NeighboursResult
from clsspec_serve.evaluation.depth_score import DepthResult
from clsspec_serve.evaluation.evaluate import Result
from clsspec_serve.evaluation.segmentation_score import SegmentationResult
from clsspec_serve.heads import Category

NO_FIVE = "there are no more than five classes"
NOWHERE = "in no prediction and in no truth"


@dataclass(frozen=True)
class Metric:
    """One number: `key` for machines, `name` for people.

    `unit`: `%`, `m`, or nothing for a ratio. `value` None: there is none, for the `reason`.
    """

    key: str
    name: str
    value: float | None
    unit: str
    reason: str | None = None

    def text(self) -> str:
        """The value with its unit, as papers print them, or why there is none."""
        if self.value is None:
            return f"- ({self.reason})"
        digits = 2 if self.unit == "%" else 4
        return f"{self.value:.{digits}f} {self.unit}".rstrip()


def metrics_of(result: Result | NeighboursResult) -> tuple[Metric, ...]:
    """The numbers of a result, the one that is published first."""
    if isinstance(result, SegmentationResult):
        return (
            _percent("mean_iou", "mIoU", result.mean_iou),
            _percent("mean_accuracy", "mean accuracy", result.mean_accuracy),
            _percent("pixel_accuracy", "pixel accuracy", result.pixel_accuracy),
        )
    if isinstance(result, DepthResult):
        return (
            Metric("rmse", "RMSE", result.rmse, "m"),
            Metric("abs_rel", "AbsRel", result.abs_rel, ""),
            Metric("delta1", "δ1", result.delta1, ""),
        )
    if isinstance(result, ClassificationResult):
        return _accuracies(result)
    return tuple(
        metric
        for k, found in result.by_k.items()
        for metric in _accuracies(found, f"knn{k}_", f"k-NN, k = {k}: ")
    )


def class_metrics(result: SegmentationResult, categories: Sequence[Category]) -> tuple[Metric, ...]:
    """The IoU of every class, keyed by its id."""
    return tuple(
        _percent(str(index), category.name, iou, NOWHERE)
        for index, (category, iou) in enumerate(zip(categories, result.iou, strict=True))
    )


def _accuracies(
    result: ClassificationResult, key: str = "", name: str = ""
) -> tuple[Metric, Metric]:
    top5 = math.nan if result.top5 is None else result.top5
    return (
        _percent(f"{key}top1", f"{name}top-1", result.top1),
        _percent(f"{key}top5", f"{name}top-5", top5, NO_FIVE),
    )


def _percent(key: str, name: str, share: float, without: str | None = None) -> Metric:
    if math.isnan(share):
        return Metric(key, name, None, "%", without)
    return Metric(key, name, 100 * share, "%")
