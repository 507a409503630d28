"""RMSE, AbsRel and δ1 of depth maps: of each image, then the mean over images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.datasets.depth_maps import FloatArray
from clsspec_serve.evaluation.datasets.windows import Window, whole


@dataclass(frozen=True)
class DepthResult:
    """Means over images.

    `rmse`: metres. `abs_rel`: the mean error relative to the truth. `delta1`: the share of pixels
    where prediction and truth differ by less than a factor of 1.25. `images`: how many were scored;
    `skipped`: how many had no pixel with a measured depth that counts.
    """

    rmse: float
    abs_rel: float
    delta1: float
    images: int
    skipped: int


class DepthScore:
    """The scores of images, as the Monocular Depth Estimation Toolbox gives them.

    A pixel counts where `minimum` < truth < `maximum`, in metres, strictly, and within `region`.
    Predictions are clamped to `minimum`..`maximum` first, or to `minimum`..`cap`; a truth beyond
    the cap counts as the cap.
    """

    def __init__(
        self, minimum: float, maximum: float, region: Window = whole, cap: float | None = None
    ) -> None:
        if not 0 < minimum < maximum or (cap is not None and not minimum < cap <= maximum):
            raise UsageError(
                f"depths from {minimum} to {maximum} m, cap {cap}; "
                "accepted is 0 < minimum < cap <= maximum"
            )
        self._minimum = minimum
        self._maximum = maximum
        self._cap = maximum if cap is None else cap
        self._caps_truth = cap is not None
        self._region = region
        self._rows: list[tuple[float, float, float]] = []
        self._skipped = 0

    def add(self, predicted: FloatArray, truth: FloatArray) -> None:
        """Metres `(H, W)`, both; a truth of 0 or NaN was not measured.

        Raises UsageError for shapes that differ and for a prediction with NaN.
        """
        if predicted.shape != truth.shape or truth.ndim != 2:
            raise UsageError(f"the prediction is {predicted.shape}, the truth {truth.shape}")
        window = self._region((truth.shape[0], truth.shape[1]))
        measured, guess = truth[window], predicted[window]
        if self._caps_truth:
            measured = np.minimum(measured, np.float32(self._cap))
        # Before widening: a float32 of 0.001 is above the double of that name.
        counts = (measured > np.float32(self._minimum)) & (measured < np.float32(self._maximum))
        if not counts.any():
            self._skipped += 1
            return
        self._rows.append(self._score(guess[counts], measured[counts]))

    def result(self) -> DepthResult:
        """The mean over all images added. Raises DatasetError when none had a depth."""
        if not self._rows:
            raise DatasetError(
                f"no pixel of {self._skipped} images has a depth between {self._minimum} and "
                f"{self._maximum} m; nothing to score (are the units those of a metre?)"
            )
        rmse, abs_rel, delta1 = np.mean(self._rows, axis=0).tolist()
        return DepthResult(rmse, abs_rel, delta1, len(self._rows), self._skipped)

    def _score(
        self, predicted: NDArray[np.floating], measured: NDArray[np.floating]
    ) -> tuple[float, float, float]:
        if np.isnan(predicted).any():
            raise UsageError("the prediction has NaN; accepted are metres")
        guess = np.clip(predicted, np.float32(self._minimum), np.float32(self._cap))
        # In float32, as the toolbox has it: depths in round millimetres whose ratio is 1.25 exactly
        # are off by a rounding, which widening first would keep.
        ratio = np.maximum(guess / measured, measured / guess)
        truth = measured.astype(np.float64)
        error = np.abs(guess - truth)
        return (
            float(np.sqrt(np.mean(error**2))),
            float(np.mean(error / truth)),
            float(np.mean(ratio < 1.25)),
        )
