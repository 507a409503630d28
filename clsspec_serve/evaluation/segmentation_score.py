"""mIoU and accuracy of segmentations, over a whole data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.datasets.label_maps import IGNORE


@dataclass(frozen=True)
class SegmentationResult:
    """Shares in 0..1.

    `mean_iou`: the mean of `iou` over the classes that occur in a prediction or a truth.
    `mean_accuracy`: the mean, over the classes that occur in a truth, of the share of their pixels
    that is predicted as such. `pixel_accuracy`: the share of all scored pixels. `iou`: by class,
    NaN for one that occurs nowhere. `images`, `pixels`: how many were scored.
    """

    mean_iou: float
    mean_accuracy: float
    pixel_accuracy: float
    iou: tuple[float, ...]
    images: int
    pixels: int


class SegmentationScore:
    """Counts of (true class, predicted class) over every pixel that is scored.

    Intersections and unions are summed over the data set before they are divided, as in
    MMSegmentation; what is predicted where the truth is `ignore` counts nowhere.
    """

    def __init__(self, classes: int, ignore: int = IGNORE) -> None:
        if classes < 1 or 0 <= ignore < classes:
            raise UsageError(f"{classes} classes, {ignore} ignored; accepted is an id outside them")
        self._classes = classes
        self._ignore = ignore
        self._counts = np.zeros((classes, classes), np.int64)
        self._images = 0

    def add(self, predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Class ids `(H, W)`, both. Raises UsageError when they do not fit.

        Raises DatasetError for a truth that is neither a class nor `ignore`.
        """
        if predicted.shape != truth.shape or {predicted.dtype.kind, truth.dtype.kind} - set("iu"):
            raise UsageError(
                f"the prediction is {predicted.shape} {predicted.dtype}, the truth {truth.shape} "
                f"{truth.dtype}; accepted are integers of one shape"
            )
        scored = truth != self._ignore
        accepted = f"0..{self._classes - 1}"
        wrong = _first(scored & ((truth < 0) | (truth >= self._classes)))
        if wrong is not None:
            raise DatasetError(
                f"the truth has the id {truth[wrong]} at {wrong}; "
                f"accepted are {accepted} and {self._ignore}"
            )
        wrong = _first(scored & ((predicted < 0) | (predicted >= self._classes)))
        if wrong is not None:
            raise UsageError(
                f"the prediction has the id {predicted[wrong]} at {wrong}; accepted are {accepted}"
            )
        pairs = truth[scored].astype(np.int64) * self._classes + predicted[scored]
        counts = np.bincount(pairs, minlength=self._classes**2)
        self._counts += counts.reshape(self._counts.shape)
        self._images += 1

    def result(self) -> SegmentationResult:
        """The score of all that was added. Raises DatasetError when no pixel was scored."""
        pixels = int(self._counts.sum())
        if not pixels:
            raise DatasetError(f"no pixel of {self._images} images has a class; nothing to score")
        right = np.diagonal(self._counts)
        true, predicted = self._counts.sum(axis=1), self._counts.sum(axis=0)
        union = true + predicted - right
        iou = np.full(self._classes, np.nan)
        np.divide(right, union, out=iou, where=union > 0)
        present = true > 0
        return SegmentationResult(
            mean_iou=float(np.nanmean(iou)),
            mean_accuracy=float(np.mean(right[present] / true[present])),
            pixel_accuracy=float(right.sum() / pixels),
            iou=tuple(iou.tolist()),
            images=self._images,
            pixels=pixels,
        )


def _first(where: NDArray[np.bool_]) -> tuple[int, ...] | None:
    return tuple(int(i) for i in np.argwhere(where)[0]) if where.any() else None
