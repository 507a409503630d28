"""Pictures in the colours of classes, and what `clsspec segment` has to make of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import official_inference as official
import torch
from command_line import Result
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clsspec_serve.heads import Protocol

Pixels = NDArray[np.uint8]
COLOURS = {
    "fire": (250, 20, 10),
    "grass": (20, 200, 30),
    "sea": (10, 40, 220),
    "snow": (240, 240, 250),
    "coal": (20, 20, 20),
}
SLIDING = Protocol(size=(60, 60), policy="short", window=60, stride=40)


def landscape(height: int, width: int, seed: int = 0) -> Pixels:
    """Areas in the colours of the classes, with noise."""
    rng = np.random.default_rng([height, width, seed])
    rows, columns = -(-height // 20), -(-width // 20)
    cells = rng.integers(0, len(COLOURS), (rows, columns)).repeat(20, 0).repeat(20, 1)
    colours = np.array([*COLOURS.values()])[cells[:height, :width]]
    return np.clip(colours + rng.integers(-40, 41, colours.shape), 0, 255).astype(np.uint8)


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def nearest_colour(picture: Tensor) -> Tensor:
    """What the bundle computes, from pixels in 0..255."""
    means = torch.nn.functional.avg_pool2d(picture, by_hand.PATCH)
    own = torch.tensor([*COLOURS.values()], dtype=torch.float64)
    return torch.einsum("bchw,kc->bkhw", means, 2 * own) - (own**2).sum(1).view(-1, 1, 1)


def assert_official(ids: NDArray[Any], pixels: Pixels) -> None:
    """They are those of the head's own protocol."""
    size = official.short_side(pixels.shape[:2], 60)
    shown = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    picture = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].double()
    values = official.segmentation(
        picture, nearest_colour, by_hand.PATCH, pixels.shape[:2], (60, 40)
    )
    winner = torch.from_numpy(ids.astype(np.int64))[None]
    assert ids.shape == pixels.shape[:2]
    assert (values.amax(0) - values.gather(0, winner)[0]).max() <= 1e-6 * float(values.abs().max())


def ids_of(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        return np.asarray(picture)


def areas(result: Result) -> dict[str, tuple[float, int]]:
    """The table on stdout: percentages and pixels by class."""
    line = re.compile(r" *(\d+\.\d) % +([\d,]+) px  (.+)")
    rows = [line.fullmatch(row) for row in result.out.splitlines()]
    found = {row[3]: (float(row[1]), int(row[2].replace(",", ""))) for row in rows if row}
    assert len(found) == len(rows)
    return found
