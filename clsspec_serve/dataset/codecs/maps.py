"""A patch map → the arrays that are kept of it, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.choices import DType
from clsspec_serve.dataset.codecs.codec import Codec
from clsspec_serve.dataset.codecs.int8 import dequantized, quantized
from clsspec_serve.dataset.codecs.pca import Basis
from clsspec_serve.delivery import Delivery
from clsspec_serve.schema import Positive, Strict

Arrays = Mapping[str, NDArray[Any]]


class Kept(Strict):
    """An array of a picture: its shape (h, w, D), and its dtype."""

    shape: tuple[Positive, Positive, Positive]
    dtype: Literal["float32", "float16", "int8"]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


def scale_of(name: str) -> str:
    """What the scales of a map in bytes are called."""
    return f"{name}_scale"


def offset_of(name: str) -> str:
    """What its offsets are called."""
    return f"{name}_offset"


def kept(codec: Codec, dtype: DType, name: str, shape: tuple[int, int, int]) -> dict[str, Kept]:
    """The arrays that are kept of a map of this name and shape (h, w, D)."""
    height, width, channels = shape
    channels = codec.pca or channels
    if not codec.int8:
        return {name: Kept(shape=(height, width, channels), dtype=dtype)}
    factors = Kept(shape=(1, 1, channels), dtype="float32")
    values = Kept(shape=(height, width, channels), dtype="int8")
    return {name: values, scale_of(name): factors, offset_of(name): factors}


@dataclass(frozen=True)
class MapCodec:
    """A codec, with the components of each map where it takes them; floats are kept in `dtype`."""

    codec: Codec
    dtype: DType
    bases: Mapping[str, Basis]

    def encode(self, name: str, patches: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What is kept of a map; raises `UsageError` for what the form cannot hold."""
        values = self.bases[name].scores(patches) if self.codec.pca else patches
        if not self.codec.int8:
            return Delivery(dtype=self.dtype).apply({name: values})
        found = quantized(name, values)
        return {name: found.values, scale_of(name): found.scale, offset_of(name): found.offset}

    def decode(self, name: str, arrays: Arrays) -> NDArray[np.float32]:
        """The map that these arrays stand for; raises `KeyError` where one of them is lacking."""
        values = arrays[name]
        if self.codec.int8:
            values = dequantized(values, arrays[scale_of(name)], arrays[offset_of(name)])
        values = values.astype(np.float32, copy=False)
        return self.bases[name].patches(values) if self.codec.pca else values
