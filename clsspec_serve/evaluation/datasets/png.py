"""The integers that a PNG holds, as they are stored: no palette, no colour, no scaling."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from clsspec_serve.errors import DatasetError, one_line
from clsspec_serve.images import DEFAULT_MAX_PIXELS

_SPREAD = {2: 85, 4: 17}
"""What Pillow multiplies grey of so many bits by, to fill eight."""


def read_png(path: Path, modes: Collection[str], accepted: str) -> NDArray[Any]:
    """`(H, W)` integers of a PNG whose Pillow mode is one of `modes`: indices or grey values.

    Raises DatasetError, naming the file and `accepted`, for another mode, for what is no PNG or
    not a whole one, and for more than `DEFAULT_MAX_PIXELS` pixels.
    """
    try:
        with path.open("rb") as stream:
            header = stream.read(26)
            stream.seek(0)
            image = PngImagePlugin.PngImageFile(stream)
            _check(image, path, modes, accepted)
            values = np.asarray(image)
    except DatasetError:
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: is missing; accepted is {accepted}") from error
    # Plugins raise whatever the first thing was that damaged data broke.
    except Exception as error:
        raise DatasetError(
            f"{path}: cannot be read as a PNG: {one_line(error)}; accepted is {accepted}"
        ) from error
    # Byte 24 is the bit depth (PNG specification, IHDR).
    spread = _SPREAD.get(header[24], 1) if image.mode == "L" else 1
    return values // spread


def _check(
    image: PngImagePlugin.PngImageFile, path: Path, modes: Collection[str], accepted: str
) -> None:
    if image.mode not in modes:
        raise DatasetError(f"{path}: is a PNG of mode {image.mode}; accepted is {accepted}")
    if image.width * image.height > DEFAULT_MAX_PIXELS:
        raise DatasetError(
            f"{path}: has {image.width}x{image.height} pixels; accepted are {DEFAULT_MAX_PIXELS}"
        )
