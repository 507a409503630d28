"""A frame as one training example: a random crop, mirrored or not, its labels at the cells.

A crop that is enlarged to the network's input looks like what the same lens sees from nearer. So
that equal looks keep equal labels, the depth of a crop with a share f of the frame's side is
multiplied by f: the depth at which the frame's own lens would have seen it so. Left as it was, an
uncropped picture, which a crop of a farther thing resembles, would be taken for too far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indoor_tiny.frames import MILLIMETRES

CELL = 4
"""Pixels per axis for which there is one label."""

_WHOLE = 0.1
"""How far beyond 1 the crop's side is drawn, to be cut back: gives a share of whole frames."""


@dataclass(frozen=True)
class Crop:
    """A square part of a frame, in the frame's pixels, and whether it is shown mirrored."""

    left: float
    top: float
    side: float
    mirrored: bool


def random_crop(frame: int, smallest: float, rng: np.random.Generator) -> Crop:
    """A crop of a frame of `frame` x `frame` pixels, its side at least the share `smallest`."""
    side = frame * min(1.0, float(rng.uniform(smallest, 1 + _WHOLE)))
    left, top = rng.uniform(0, frame - side, 2).tolist()
    return Crop(left, top, side, mirrored=bool(rng.random() < 0.5))


def whole(frame: int) -> Crop:
    """All of a frame."""
    return Crop(0, 0, frame, mirrored=False)


def crop_image(image: NDArray[np.uint8], crop: Crop, side: int) -> Image.Image:
    """The crop of `(S, S, 3) uint8` at `side` x `side`, antialiased."""
    box = (crop.left, crop.top, crop.left + crop.side, crop.top + crop.side)
    shown = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR, box=box)
    return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else shown


def crop_classes(classes: NDArray[np.uint8], crop: Crop, side: int) -> NDArray[np.uint8]:
    """`(side / CELL, side / CELL) uint8`: the class below the centre of each cell."""
    return classes[_cells(crop, side, classes.shape[0])]


def crop_depth(depth: NDArray[np.uint16], crop: Crop, side: int) -> NDArray[np.float32]:
    """`(side / CELL, side / CELL)`: metres below the centre of each cell, times the crop's share.

    0 where nothing was hit.
    """
    scale = crop.side / depth.shape[0] / MILLIMETRES
    return depth[_cells(crop, side, depth.shape[0])] * np.float32(scale)


def _cells(crop: Crop, side: int, frame: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the frame below the centres of the cells, to index with."""
    count = side // CELL
    steps = (np.arange(count) + 0.5) * (crop.side / count)
    rows, columns = (
        np.clip(np.floor(start + steps).astype(np.intp), 0, frame - 1)
        for start in (crop.top, crop.left)
    )
    return rows[:, None], (columns[::-1] if crop.mirrored else columns)[None]
