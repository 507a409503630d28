"""A small picture for the page of the server, and the panels that the page shows."""

from __future__ import annotations

import numpy as np
from browser import Visit
from http_server import COLOURS
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image


def figures(visit: Visit) -> list[str]:
    """The panels that are there to be seen."""
    found = visit.page.locator("figure:visible").all()
    return [figure.get_attribute("id") or "" for figure in found]


def quarters() -> NDArray[np.uint8]:
    """56x84 pixels; red and green over blue and red, without a symmetry that turning would keep."""
    pixels = np.zeros((56, 84, 3), np.uint8)
    pixels[:28, :42], pixels[:28, 42:] = COLOURS["red"], COLOURS["green"]
    pixels[28:, :42], pixels[28:, 42:] = COLOURS["blue"], COLOURS["red"]
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    return encoded(Image.fromarray(pixels), "PNG")
