"""The principal components of a data set's patches, found once on a sample of its pictures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clsspec_serve.pictures.pca import signs

FloatArray = NDArray[np.float32]


def one_blas_thread() -> AbstractContextManager[object]:
    """A context in which numpy multiplies in the thread that asks.

    Pictures are encoded side by side, and threads of BLAS that wait for work keep cores from them.
    """
    return threadpool_limits(1, user_api="blas")


@dataclass(frozen=True)
class Basis:
    """`mean` `(D,)` and `components` `(K, D)`, of length 1, by falling variance; float32."""

    mean: FloatArray
    components: FloatArray

    def scores(self, patches: FloatArray) -> FloatArray:
        """A map `(h, w, D)` → its components `(h, w, K)`."""
        found = (patches - self.mean).reshape(-1, len(self.mean)) @ self.components.T
        return np.asarray(found, np.float32).reshape(*patches.shape[:2], -1)

    def patches(self, scores: FloatArray) -> FloatArray:
        """Components `(h, w, K)` → the map `(h, w, D)` that they stand for."""
        return np.asarray(scores @ self.components + self.mean, np.float32)


class Patches:
    """Moments of the patches seen so far, in float64; every patch counts the same."""

    def __init__(self) -> None:
        self.count = 0
        self._origin: NDArray[np.float64] = np.zeros(0)
        self._sum: NDArray[np.float64] = np.zeros(0)
        self._products: NDArray[np.float64] = np.zeros((0, 0))

    def add(self, patches: FloatArray) -> None:
        """A map `(h, w, D)`, as wide as those before."""
        rows = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
        if not self.count:
            # Near the mean, so that little is lost when that is taken off.
            self._origin = rows.mean(0)
            self._sum, self._products = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
        rows -= self._origin
        self.count += len(rows)
        self._sum += rows.sum(0)
        self._products += rows.T @ rows

    @property
    def mean(self) -> NDArray[np.float64]:
        """Of each channel, `(D,)`."""
        return self._origin + self._sum / self.count

    def basis(self, count: int) -> Basis:
        """The first `count` components; a component has the sign that `signs` gives it."""
        mean = self._sum / self.count
        covariance = self._products / self.count - np.outer(mean, mean)
        _, vectors = np.linalg.eigh(covariance)
        components = vectors[:, : -count - 1 : -1].T
        components = components * signs(components)[:, None]
        return Basis(self.mean.astype(np.float32), components.astype(np.float32))
