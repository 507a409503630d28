"""Features in the form in which a client wants them: coarser, of unit length, in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.choices import DType, HeadTask
from clsspec_serve.errors import UsageError
from clsspec_serve.geometry import Geometry

_HEADS = get_args(HeadTask)
_FLOAT16 = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Delivery:
    """What is done with features, in this order.

    `pool`: patch maps become means over `pool` by `pool` patches, at the right and lower edges over
    those that there are: `(ceil(h / pool), ceil(w / pool), D)`. `normalize`: [CLS] and every patch
    are divided by their Euclidean length; zeros stay. `dtype`: of all floats, depth too.
    Raises UsageError for a pool below 1.
    """

    pool: int = 1
    normalize: bool = False
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise UsageError(f"pool is {self.pool}; accepted are 1 and more")

    def apply(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays of a prediction; raises UsageError for what half precision cannot hold."""
        return {name: self._delivered(name, array) for name, array in arrays.items()}

    def geometry(self, geometry: Geometry) -> Geometry:
        """How the patches of the delivered map lie in the picture."""
        return geometry.pooled(self.pool) if self.pool > 1 else geometry

    def _delivered(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if name not in _HEADS:
            if array.ndim == 3 and self.pool > 1:
                array = pooled(array, self.pool)
            if self.normalize:
                array = normalized(array)
        if self.dtype == "float32" or array.dtype != np.float32:
            return array
        largest = float(np.nanmax(np.abs(array), initial=0))
        if largest > _FLOAT16:
            raise UsageError(f"{name} reaches {largest:g}, which float16 cannot hold; use float32")
        return array.astype(np.float16)


def pooled(patches: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means over `side` by `side` patches of a map `(h, w, D)`; see `Delivery`."""
    rows, columns = (np.arange(0, length, side) for length in patches.shape[:2])
    sums = np.add.reduceat(patches, rows, axis=0, dtype=np.float64)
    sums = np.add.reduceat(sums, columns, axis=1)
    high, wide = (
        np.diff(starts, append=length)
        for starts, length in zip((rows, columns), patches.shape[:2], strict=True)
    )
    return (sums / (high[:, None, None] * wide[None, :, None])).astype(np.float32)


def normalized(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features `(..., D)` divided by their Euclidean lengths; zeros stay."""
    lengths = np.linalg.norm(features.astype(np.float64), axis=-1, keepdims=True)
    return (features / np.where(lengths > 0, lengths, 1)).astype(np.float32)
