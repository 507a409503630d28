"""How much of patch maps, and of what heads make of them, a codec loses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.codecs.calibration import MapLoss

Doubles = NDArray[np.float64]


class MapLosses:
    """Adds up what maps have lost, patch by patch."""

    def __init__(self) -> None:
        self._count = 0
        self._squares = self._error = self._cosines = 0.0
        self._sum: Doubles | float = 0.0

    def add(self, before: NDArray[Any], after: NDArray[Any]) -> None:
        """A map `(h, w, D)` as it was and as it is."""
        old, new = (each.reshape(-1, each.shape[-1]).astype(np.float64) for each in (before, after))
        self._count += len(old)
        self._sum = self._sum + old.sum(0)
        self._squares += float(np.square(old).sum())
        self._error += float(np.square(old - new).sum())
        lengths = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
        # A patch of zeros has no direction to lose.
        cosines = np.divide(
            (old * new).sum(1), lengths, out=np.ones_like(lengths), where=lengths > 0
        )
        self._cosines += float(cosines.sum())

    def loss(self) -> MapLoss:
        """Of all of them together."""
        variance = self._squares - float(np.square(self._sum).sum()) / self._count
        return MapLoss(
            variance=1 - self._error / variance if variance else 1.0,
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
