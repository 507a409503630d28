"""Class ids as indexed PNGs, as overlays and as a table of areas."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.colour import Colour
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import Category

VOID = "void"
"""The name of the id of pixels without a class, which is the largest of the ids' type."""
VOID_COLOUR: Colour = (224, 224, 224)
VOID_BYTE = 255
_STRIP = 256
"""Rows worked on at a time, which bounds the wider copies."""


class Area(NamedTuple):
    """What one class, or `void`, takes of a picture; `share` of all its pixels, in 0..1."""

    name: str
    pixels: int
    share: float


def mask_png(ids: NDArray[Any], categories: Sequence[Category]) -> bytes:
    """An 8-bit indexed PNG whose pixel values are the ids `(H, W)` uint8.

    The palette has 256 entries: the categories' colours, black, and for 255, which is no class but
    void, light grey. Raises UsageError for wider ids, for more than 255 categories, and as
    `areas` does.
    """
    if ids.dtype != np.uint8 or len(categories) > VOID_BYTE:
        raise UsageError(
            f"a mask of {len(categories)} classes as {ids.dtype} does not fit in a PNG, which "
            "holds ids of 8 bits for up to 255 classes; write a .npy"
        )
    _counts(ids, categories)
    picture = Image.fromarray(np.ascontiguousarray(ids))
    picture.putpalette(palette(categories, np.uint8).tobytes())
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def overlay(
    picture: NDArray[np.uint8], ids: NDArray[Any], categories: Sequence[Category], alpha: float
) -> NDArray[np.uint8]:
    """The picture `(H, W, 3)` uint8, RGB, with its classes painted over it.

    `ids`: `(H, W)` of an unsigned type. `alpha`: the paint's share in a colour, 0..1. Void is not
    painted. Raises UsageError for an alpha beyond that, for pictures and ids of different sizes,
    and as `areas` does.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha is {alpha}; accepted are 0 to 1")
    if picture.shape != (*ids.shape, 3):
        raise UsageError(f"ids of the shape {ids.shape} do not cover a picture {picture.shape}")
    _counts(ids, categories)
    paint = palette(categories, ids.dtype).astype(np.float32) * alpha
    void = np.iinfo(ids.dtype).max
    out = np.empty_like(picture)
    for top in range(0, len(ids), _STRIP):
        strip, below = ids[top : top + _STRIP], picture[top : top + _STRIP]
        painted = np.rint(below * np.float32(1 - alpha) + paint[strip])
        out[top : top + _STRIP] = np.where((strip == void)[..., None], below, painted)
    return out


def areas(ids: NDArray[Any], categories: Sequence[Category]) -> list[Area]:
    """The classes that occur in `(H, W)` ids of an unsigned type, and void, the largest first.

    Classes of one size keep their order. Raises UsageError for an id that is neither.
    """
    return [area for _, area in counted(ids, categories)]


def counted(ids: NDArray[Any], categories: Sequence[Category]) -> list[tuple[int, Area]]:
    """As `areas`, each beside its id."""
    counts = _counts(ids, categories)
    void = np.iinfo(ids.dtype).max
    rows = [
        (
            index,
            Area(VOID if index == void else categories[index].name, count, count / ids.size),
        )
        for index, count in enumerate(counts.tolist())
        if count
    ]
    return sorted(rows, key=lambda row: -row[1].pixels)


def palette(categories: Sequence[Category], dtype: Any) -> NDArray[np.uint8]:
    """The colour of every id of a type, `(ids, 3)` uint8."""
    colours = np.zeros((np.iinfo(dtype).max + 1, 3), np.uint8)
    colours[: len(categories)] = [category.colour for category in categories]
    colours[-1] = VOID_COLOUR
    return colours


def _counts(ids: NDArray[Any], categories: Sequence[Category]) -> NDArray[np.int64]:
    """How many pixels each id has."""
    if ids.ndim != 2 or ids.dtype not in (np.uint8, np.uint16) or not ids.size:
        raise UsageError(
            f"ids have the shape {ids.shape} and type {ids.dtype}; accepted is (H, W) uint8 or "
            "uint16, not empty"
        )
    void = np.iinfo(ids.dtype).max
    counts = np.zeros(void + 1, np.int64)
    for top in range(0, len(ids), _STRIP):
        counts += np.bincount(ids[top : top + _STRIP].ravel(), minlength=void + 1)
    unknown = np.flatnonzero(counts[len(categories) : void])
    if unknown.size:
        raise UsageError(
            f"an id is {len(categories) + unknown[0]}; accepted are 0 to {len(categories) - 1} "
            f"for the classes, and {void} for void"
        )
    return counts
