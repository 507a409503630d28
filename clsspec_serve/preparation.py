"""One picture, read and brought to size for the network: all that comes before the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from clsspec_serve.dense.views import Pixels, Tiling, cut, tile
from clsspec_serve.errors import ImageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.images import ImageLike, decode_image
from clsspec_serve.manifest import Manifest
from clsspec_serve.request import Request, Size
from clsspec_serve.transform import plan, render, size_of

MOST_ELONGATED = 16
"""The long side of a picture over its short side, where the short one has a fixed size."""


@dataclass(frozen=True)
class Prepared:
    """One picture ready for the network: `(4, H, W) uint8`, and how it is shown and mapped back."""

    pixels: Pixels
    geometry: Geometry
    tiling: Tiling

    def views(self) -> Iterator[Pixels]:
        """What goes through the network, each `(4, h, w) uint8`, all of one shape."""
        if self.tiling.views == 1:
            return iter([self.pixels])
        return cut(self.pixels, self.geometry, self.tiling)


def prepare(manifest: Manifest, image: ImageLike, request: Request) -> Prepared:
    """Read and transform one picture; raises `ImageError`."""
    picture = decode_image(image, request.limits)
    try:
        geometry, tiling = frame(manifest, size_of(picture), request)
        pixels = render(picture, geometry, request.preprocessing.interpolation)
    except ImageError as error:
        if not isinstance(image, str | os.PathLike):
            raise
        raise ImageError(f"{os.fspath(image)}: {error}") from error
    return Prepared(pixels, geometry, tiling)


def frame(manifest: Manifest, image: Size, request: Request) -> tuple[Geometry, Tiling]:
    """How a picture of (H, W) `image` is shown; raises `ImageError`."""
    geometry = plan(
        image,
        request.preprocessing,
        manifest.architecture.patch_size,
        size=request.size,
        policy=request.policy,
    )
    _check_elongation(geometry, request)
    return geometry, tile(geometry, request.window, request.stride, request.flip)


def _check_elongation(geometry: Geometry, request: Request) -> None:
    """Refuse a picture that `short` would show at once in a number of patches without bound."""
    policy = request.policy or request.preprocessing.policy
    short, long = sorted(geometry.crop[2:])
    if policy == "short" and request.window is None and long > MOST_ELONGATED * short:
        raise ImageError(
            f"a picture of {geometry.image[0]}x{geometry.image[1]} is too elongated to be shown at "
            f"once with a short side of {short}, at most {MOST_ELONGATED} times; accepted are "
            "windows, or the policy fit"
        )
