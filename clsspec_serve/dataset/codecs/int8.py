"""A byte for each value of a patch map, with a scale and an offset for each channel of a picture.

Channels of one picture differ in range by orders of magnitude, and so do pictures. With both kept
for each picture, what becomes of it depends on no other one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError

_LEVELS = 127
"""Above zero, and as many below."""


class Quantized(NamedTuple):
    """`values` `(h, w, D)` int8 in -127..127; `scale`, `offset` `(1, 1, D)` float32.

    The map is `values * scale + offset`, to half a `scale`, the names being those of the CF
    conventions' packed data (https://cfconventions.org, "Packed Data").
    """

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]


class BeyondInt8(UsageError):
    """A map holds NaN or infinity, which have no byte."""


def quantized(name: str, patches: NDArray[np.float32]) -> Quantized:
    """The map `(h, w, D)` of that name in bytes; raises `BeyondInt8`."""
    low, high = patches.min((0, 1), keepdims=True), patches.max((0, 1), keepdims=True)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise BeyondInt8(f"{name} holds NaN or infinity, which int8 cannot hold")
    # Halves first, as the range may be beyond float32.
    offset = low / 2 + high / 2
    scale = (high / 2 - low / 2) / np.float32(_LEVELS)
    steps = patches - offset
    # Of a channel without a range nothing but zero is left.
    np.divide(steps, np.where(scale > 0, scale, np.float32(1)), out=steps)
    np.rint(steps, out=steps)
    np.clip(steps, -_LEVELS, _LEVELS, out=steps)
    return Quantized(steps.astype(np.int8), scale, offset)


def dequantized(
    values: NDArray[np.int8], scale: NDArray[Any], offset: NDArray[Any]
) -> NDArray[np.float32]:
    """The map `(h, w, D)` that the bytes stand for."""
    return np.asarray(values * scale + offset, np.float32)
