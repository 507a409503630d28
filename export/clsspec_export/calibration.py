"""The pictures that int8 finds its ranges on, as the network is shown them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.evaluation.datasets.listing import PICTURES
from clsspec_serve.images import read_image
from clsspec_serve.position import position_map
from clsspec_serve.transform import transform

MOST = 64
"""Pictures that are looked at; ranges hardly widen after some dozens."""

Inputs = dict[str, NDArray[Any]]


def calibration_pictures(folder: Path) -> list[Path]:
    """Up to `MOST` pictures below a folder, evenly from all of them in order of name.

    What is hidden is left out, as macOS's `._a.jpg` beside `a.jpg`, which is no picture.

    Raises `UsageError` for what is no folder and for one without pictures.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; int8 is calibrated on a folder of pictures")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURES and path.is_file() and not _is_hidden(path, folder)
    )
    if not found:
        raise UsageError(f"{folder} has no pictures; accepted are {', '.join(PICTURES)}")
    count = min(len(found), MOST)
    return [found[index * len(found) // count] for index in range(count)]


def _is_hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def calibration_inputs(checkpoint: Checkpoint, pictures: Sequence[Path]) -> Iterator[Inputs]:
    """The graph's inputs for each picture: `pixels (1, 4, H, W)` uint8, `position (h, w, C)`.

    Raises `ImageError` naming a picture that cannot be read.
    """
    table = checkpoint.table.numpy()
    patch: int = checkpoint.model.patch_embed.proj.kernel_size[0]
    for path in pictures:
        picture = read_image(path)  # whose errors name it
        try:
            pixels, _ = transform(picture, checkpoint.preprocessing, patch)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
        position = position_map(checkpoint.position, table, grid)
        yield {"pixels": np.ascontiguousarray(pixels[None]), "position": position}
