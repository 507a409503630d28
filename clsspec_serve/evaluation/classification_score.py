"""Top-1 and top-5 accuracy of classifications."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import DatasetError, UsageError

FIVE = 5


@dataclass(frozen=True)
class ClassificationResult:
    """Shares of images in 0..1 whose class is the first, or among the first five.

    `top5` is None where there are no more than five classes.
    """

    top1: float
    top5: float | None
    images: int


class ClassificationScore:
    """Counts of images by the rank that their class was given."""

    def __init__(self, classes: int) -> None:
        if classes < 2:
            raise UsageError(f"{classes} classes; accepted are 2 and more")
        self._classes = classes
        self._first = self._among_five = self._images = 0

    def add(self, scores: NDArray[np.floating], labels: NDArray[np.integer] | int) -> None:
        """Logits or votes `(N, K)` of N images and their classes `(N,)`; or `(K,)` and one class.

        Raises UsageError for other shapes and NaN, DatasetError for a label that is no class.
        """
        found = ranks(np.atleast_2d(scores), np.atleast_1d(labels), self._classes)
        self._first += int((found == 0).sum())
        self._among_five += int((found < FIVE).sum())
        self._images += len(found)

    def result(self) -> ClassificationResult:
        """The shares of all images added. Raises DatasetError when there are none."""
        if not self._images:
            raise DatasetError("no image was classified; nothing to score")
        top5 = self._among_five / self._images if self._classes > FIVE else None
        return ClassificationResult(self._first / self._images, top5, self._images)


def ranks(
    scores: NDArray[np.floating], labels: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """By image, how many classes come before its own: higher scores, then lower ids.

    `scores`: `(N, K)`. A class with a score of -inf has no rank and comes after all others.
    """
    if scores.shape != (len(labels), classes) or np.isnan(scores).any():
        raise UsageError(
            f"scores are {scores.shape} for {len(labels)} labels, or NaN; "
            f"accepted are {(len(labels), classes)} numbers"
        )
    check_labels(labels, classes)
    own = scores[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(classes) < labels[:, None]
    before = (scores > own) | ((scores == own) & earlier)
    return np.where(np.isneginf(own[:, 0]), classes, before.sum(axis=1))


def check_labels(labels: NDArray[np.integer], classes: int) -> None:
    """Raises DatasetError for a label that is not in 0..classes-1."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        raise DatasetError(f"a label is {labels[wrong][0]}; accepted are 0..{classes - 1}")
