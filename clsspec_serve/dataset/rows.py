"""What became of one picture of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.codecs.maps import MapCodec
from clsspec_serve.dataset.contents import UNKNOWN, Content
from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.sources.source import Changed, Unreadable
from clsspec_serve.delivery import Delivery
from clsspec_serve.errors import ImageError, ImageTooLarge, one_line
from clsspec_serve.geometry import Geometry
from clsspec_serve.heads import DepthHead, SegmentationHead
from clsspec_serve.layers import require_head
from clsspec_serve.outputs import npy
from clsspec_serve.pictures.depths import depth_png
from clsspec_serve.pictures.masks import mask_png
from clsspec_serve.predictor import Prediction

_KINDS: tuple[tuple[type[ImageError], str], ...] = (
    (Changed, "changed"),
    (Unreadable, "unreadable"),
    (ImageTooLarge, "too large"),
    (ImageError, "no picture"),
)
_IN_MEMORY = "image bytes: "


@dataclass(frozen=True)
class Failure:
    """Why a picture gave nothing, and which kind of reason that is."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Duplicate:
    """The picture has the bytes of the one in the row `of`, which has the answers."""

    of: int


Unanswered = Failure | Duplicate


@dataclass(frozen=True)
class Row:
    """A picture's answers as they are kept, or its failure; see `Layout`.

    `content`: what is known of its bytes; a duplicate has no answers either.
    """

    item: Item
    geometry: Geometry | None = None
    vectors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    maps: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    failure: Failure | None = None
    content: Content = UNKNOWN


def failure_of(error: ImageError) -> Failure:
    """A failure in the words of an error."""
    kind = next(word for each, word in _KINDS if isinstance(error, each))
    return Failure(kind, one_line(error).removeprefix(_IN_MEMORY))


def row_of(item: Item, prediction: Prediction, layout: Layout, codec: MapCodec) -> Row:
    """A row of a prediction. Raises `UsageError` for what half precision or bytes cannot hold."""
    vectors = {name: prediction.arrays[name] for name in layout.vectors}
    maps: dict[str, NDArray[Any]] = {}
    for name in layout.encoded:
        maps |= codec.encode(name, prediction.arrays[name])

    def encoded(name: str) -> bytes:
        if name == "segment":
            categories = require_head(layout.heads, SegmentationHead).classes
            return mask_png(prediction.segment, categories)
        if name == "depth":
            return depth_png(prediction.depth, require_head(layout.heads, DepthHead).maximum)
        return npy(maps[name])

    return Row(
        item,
        prediction.geometry,
        # Copies, as a view would keep the whole batch for as long as the shard.
        vectors={
            name: np.array(vector)
            for name, vector in Delivery(dtype=layout.dtype).apply(vectors).items()
        },
        maps={name: maps[name] for name in layout.maps},
        files={suffix: encoded(name) for name, suffix in layout.files.items()},
    )
