"""Pillow's colour modes → 8-bit RGB, by a stated rule for each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.errors import ImageError, UsageError

Colour = tuple[int, int, int]

_STRIP = 256
"""Rows composited at a time, which bounds the 16-bit copies."""


def parse_colour(text: str) -> Colour:
    """RGB in 0..255 from hexadecimal `RRGGBB`. Raises UsageError."""
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        raise UsageError(f"colour {text!r}; accepted is RRGGBB, such as ffffff") from None
    return red, green, blue


def to_rgb(image: Image.Image, name: str, background: Colour) -> Image.Image:
    """A loaded image in mode RGB.

    Opaque pictures of 8 bits are what `Image.convert("RGB")` gives; transparency of any kind is
    composited over `background`; 16-bit grey is scaled to 8 bits. Raises ImageError, naming `name`,
    for pixels without a fixed range.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_rgb_from_deep_grey(image, name, background))
    if image.has_transparency_data:
        return Image.fromarray(_composite(image, background))
    return image if image.mode == "RGB" else image.convert("RGB")


def _composite(image: Image.Image, background: Colour) -> NDArray[np.uint8]:
    """Alpha compositing over one colour, rounded to nearest."""
    # Pillow has no direct way from premultiplied grey to RGBA.
    straight = image.convert("LA") if image.mode == "La" else image
    rgba = np.asarray(straight.convert("RGBA"))
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    for top in range(0, len(rgba), _STRIP):
        strip = rgba[top : top + _STRIP].astype(np.uint16)
        alpha = strip[..., 3:]
        # At most 255 * 255 + 127, which 16 bits hold.
        mixed = strip[..., :3] * alpha + np.asarray(background, np.uint16) * (255 - alpha)
        rgb[top : top + _STRIP] = (mixed + 127) // 255
    return rgb


def _rgb_from_deep_grey(image: Image.Image, name: str, background: Colour) -> NDArray[np.uint8]:
    """Grey in 0..65535 → value / 257 rounded, so that white stays white."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"{name}: has pixels of mode {image.mode} from {values.min()} to {values.max()}; "
            "accepted are 8 bits per channel and grey integers in 0..65535"
        )
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in image.info:
        rgb[values == image.info["transparency"]] = background
    return rgb
