"""Two rows of one picture: by how much do their answers differ, and how much is accepted?"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from clsspec_serve.choices import DType, Precision
from clsspec_serve.dataset.codecs.maps import MapCodec, offset_of, scale_of
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.run import State

TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "bf16": 3e-2, "fp16": 3e-2, "int8": 3e-2}
"""The largest difference of an array: the Euclidean length of it, relative to that of the array."""
ROUNDING: dict[DType, float] = {"float32": 0.0, "float16": 1e-3}
"""What is added to it for how features are stored."""
BYTES = 2e-3
"""What is added to that for maps in bytes, of which some come to another step.

Of the model inside at most 1.2e-3, where a map differed by 1e-4 before it was put in bytes.
"""
PIXELS = 1e-3
"""The largest share of a mask's pixels that have another class."""
_MASK = "segment"

Array = NDArray[Any]


class Comparing:
    """Compares rows of one run; maps are compared as they are read back."""

    def __init__(self, state: State, codec: MapCodec) -> None:
        self._asked, self._files, self._codec = state.asked, state.files, codec
        self._encoded = {*state.calibration.maps} if state.calibration else set[str]()

    def __call__(self, then: Row, now: Row) -> Iterator[tuple[str, float, float]]:
        """Of each answer its name, the difference, and what is accepted.

        The difference is infinite where what was stored is lacking, of another shape, or cannot be
        read.
        """
        before, after = self._answers(then), self._answers(now)
        for name, answer in after.items():
            difference = float("inf")
            if name in before:
                measure = _share if name == _MASK else _relative
                difference = measure(before[name], answer)
            yield name, difference, self._accepted(name)

    def _accepted(self, name: str) -> float:
        if name == _MASK:
            return PIXELS
        tolerance = TOLERANCES[self._asked.precision] + ROUNDING[self._asked.dtype]
        return tolerance + BYTES * (name in self._encoded and self._asked.codec.int8)

    def _answers(self, row: Row) -> dict[str, Array]:
        """Those that can be read, as arrays."""
        found = {**row.vectors, **row.maps}
        for name, suffix in self._files.items():
            with suppress(OSError, ValueError, KeyError):
                found[name] = _decoded(suffix, row.files[suffix])
        for name in self._encoded:
            with suppress(ValueError, KeyError):
                found[name] = self._codec.decode(name, found)
            for part in (scale_of(name), offset_of(name)):
                found.pop(part, None)
        return found


def _relative(then: Array, now: Array) -> float:
    """The length of the difference over that of what was stored; infinite for another shape."""
    if then.shape != now.shape:
        return float("inf")
    if np.array_equal(then, now, equal_nan=True):
        return 0.0
    before, after = (each.astype(np.float64) for each in (then, now))
    difference, length = (float(np.linalg.norm(each)) for each in (before - after, before))
    return difference / length if length else float("inf")


def _share(then: Array, now: Array) -> float:
    """Of pixels that differ; infinite for another shape."""
    return float((then != now).mean()) if then.shape == now.shape else float("inf")


def _decoded(suffix: str, content: bytes) -> Array:
    if suffix.endswith(".npy"):
        array: Array = np.load(io.BytesIO(content))
        return array
    # Without the bound of `Image.open`: this is as large as the picture, which was accepted.
    with PngImageFile(io.BytesIO(content)) as picture:
        return np.asarray(picture)
