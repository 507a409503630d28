"""How much of patch maps, and of what heads make of them, a codec loses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.codecs.calibration import MapLoss

Doubles = NDArray[np.float64]

_NOISE = 1e-12
"""Of the sum of squares: a variance that only rounding leaves."""


class MapLosses:
    """Adds up what maps have lost, patch by patch."""

    def __init__(self) -> None:
        self._count = 0
        self._squares = self._centred = self._error = self._cosines = 0.0
        # Near the mean, so that little is lost when that is taken off.
        self._origin: Doubles = np.zeros(0)
        self._sum: Doubles = np.zeros(0)

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """A map `(h, w, D)` as it was and as it is."""
        old, new = (each.reshape(-1, each.shape[-1]).astype(np.float64) for each in (before, after))
        if not self._count:
            self._origin, self._sum = old.mean(0), np.zeros(old.shape[1])
        self._count += len(old)
        self._sum += (old - self._origin).sum(0)
        self._squares += float(np.square(old).sum())
        self._centred += float(np.square(old - self._origin).sum())
        self._error += float(np.square(old - new).sum())
        one, other = (np.linalg.norm(each, axis=1) for each in (old, new))
        # Patches of zeros have no direction to lose.
        cosines = ((one == 0) & (other == 0)).astype(np.float64)
        lengths = one * other
        np.divide((old * new).sum(1), lengths, out=cosines, where=lengths > 0)
        self._cosines += float(cosines.sum())

    def loss(self) -> MapLoss:
        """Of all of them together."""
        variance = self._centred - float(np.square(self._sum).sum()) / self._count
        varies = variance > _NOISE * self._squares
        return MapLoss(
            variance=1 - self._error / variance if varies else None,
            cosine=self._cosines / self._count,
            relative=float(np.sqrt(self._error / self._squares)) if self._squares else 0.0,
        )


def answer_loss(task: str, before: NDArray[Any], after: NDArray[Any]) -> float | None:
    """Of one picture; see `Calibration`. None where the picture shows nothing to compare."""
    if task == "classify":
        return float(before.argmax() != after.argmax())
    if task == "segment":
        seen = before != np.iinfo(before.dtype).max
        return float((before != after)[seen].mean()) if seen.any() else None
    seen = np.isfinite(before) & (before > 0)
    if not seen.any():
        return None
    return float((np.abs(after - before)[seen] / before[seen]).mean())
