"""What there is to see of one prediction: PCA, similarity, mask, depth, beside the photograph."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.errors import OutputError, UsageError, one_line
from clsspec_serve.geometry import Geometry
from clsspec_serve.heads import AnyHead, Category
from clsspec_serve.pictures.alignment import enlarge, visible
from clsspec_serve.pictures.colormap import colour
from clsspec_serve.pictures.depths import colour_depth, depth_range
from clsspec_serve.pictures.masks import areas, overlay
from clsspec_serve.pictures.panels import Panel, fitted, ring
from clsspec_serve.pictures.pca import Pca
from clsspec_serve.pictures.similarity import similarity

Bytes = NDArray[np.uint8]
Point = tuple[int, int]

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True}),
}
"""Pillow's format and options for a file's suffix."""
SIMILARITY_COLORMAP = "viridis"
PAINT = 0.55
"""A class's share in the colours of an overlay."""
_LEGEND = 5


@dataclass(frozen=True)
class Look:
    """A photograph at display size and its panels, but for the PCA, and what that is made of.

    `photograph`: `(H, W, 3)` uint8, without marks. `patches`: `(h, w, D)`, as `geometry` has them.
    """

    photograph: Bytes
    first: Panel
    further: tuple[Panel, ...]
    patches: NDArray[Any]
    geometry: Geometry

    @property
    def seen(self) -> NDArray[Any]:
        """The patches that show some of the picture."""
        return self.patches[visible(self.geometry)]

    def panels(self, pca: Pca, title: str, *, smooth: bool = False) -> list[Panel]:
        """All panels, the PCA in the second place; its title is followed by the variance shown."""
        colours = enlarge(pca.apply(self.patches), self.geometry, self.photograph, smooth=smooth)
        share = f"{title}, {sum(pca.shares):.0%} of the variance"
        return [self.first, Panel(share, colours), *self.further]


def look(
    name: str,
    pixels: Bytes,
    patches: NDArray[Any],
    geometry: Geometry,
    dense: Mapping[str, NDArray[Any]],
    heads: Sequence[AnyHead],
    *,
    height: int,
    point: Point | None = None,
    smooth: bool = False,
) -> Look:
    """Look at a picture `(H, W, 3)` uint8, in panels of `height` pixels.

    `patches`: `(h, w, D)`. `dense`: `segment` and `depth`, where the model gave them. `heads`:
    the bundle's. `point`: (x, y) of the pixel to which similarity is shown. Raises UsageError, with
    `name`, for a point that is not in the picture or that the network did not see.
    """
    photograph = fitted(pixels, height)
    marked, further = photograph, []
    if point is not None:
        cosines = _similarity(name, patches, geometry, point)
        area = cosines[visible(geometry)]
        low, high = float(area.min()), float(area.max())
        coloured = colour(cosines, SIMILARITY_COLORMAP, low, high)
        place = [
            (value + 0.5) * photograph.shape[axis] / pixels.shape[axis]
            for axis, value in enumerate(reversed(point))
        ]
        marked = ring(photograph, *place)
        enlarged = enlarge(coloured, geometry, photograph, smooth=smooth)
        title = f"Similarity to {point[0]},{point[1]}: {low:.2f} to {high:.2f}"
        further.append(Panel(title, ring(enlarged, *place)))
    if "segment" in dense:
        further.append(_segmentation(pixels, dense["segment"], _categories(heads), height))
    if "depth" in dense:
        low, high = depth_range(dense["depth"])
        title = f"Depth: {low:.2f} to {high:.2f} m"
        further.append(Panel(title, fitted(colour_depth(dense["depth"]), height)))
    return Look(photograph, Panel(name, marked), tuple(further), patches, geometry)


def parse_point(text: str) -> Point:
    """(x, y) of a pixel from `120,80`. Raises UsageError."""
    x, _, y = text.partition(",")
    if not (x.strip().isdecimal() and y.strip().isdecimal()):
        raise UsageError(
            f"point {text!r}; accepted is x,y in whole pixels of the picture, such as 120,80"
        )
    return int(x), int(y)


def encode_picture(picture: Bytes, suffix: str) -> bytes:
    """The file for a suffix of `FORMATS`. Raises OutputError for what its format cannot hold."""
    form, options = FORMATS[suffix]
    file = io.BytesIO()
    try:
        Image.fromarray(picture).save(file, form, **options)
    except (OSError, ValueError) as error:
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise OutputError(f"{form} cannot hold {size} pixels: {one_line(error)}") from error
    return file.getvalue()


def _similarity(
    name: str, patches: NDArray[Any], geometry: Geometry, point: Point
) -> NDArray[np.float32]:
    x, y = point
    height, width = geometry.image
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            f"{name}: point {x},{y} is outside of the picture; accepted are 0,0 to "
            f"{width - 1},{height - 1}"
        )
    patch = geometry.image_to_patch(y + 0.5, x + 0.5)
    if patch is None:
        raise UsageError(
            f"{name}: point {x},{y} was cropped away; --resize fit shows all of the picture"
        )
    return similarity(patches, *patch)


def _categories(heads: Sequence[AnyHead]) -> tuple[Category, ...]:
    return next(head.classes for head in heads if head.task == "segment")


def _segmentation(
    pixels: Bytes, ids: NDArray[Any], categories: Sequence[Category], height: int
) -> Panel:
    painted = fitted(overlay(pixels, ids, categories, PAINT), height)
    colours = {category.name: category.colour for category in categories}
    found = [area for area in areas(ids, categories) if area.name in colours][:_LEGEND]
    legend = tuple((colours[area.name], f"{area.name} {area.share:.0%}") for area in found)
    return Panel("Segmentation", painted, legend)
