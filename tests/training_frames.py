"""Tiny frames for the tests of the training: squares whose colour is the id of their class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indoor_tiny.classes import CLASSES, ROOMS
from indoor_tiny.frames import create_shard, finish_shard

SIDE = 64
SQUARE = 16
PER_CLASS = 15
"""Grey levels from one class to the next."""


def write_frames(folder: Path, count: int, seed: int, shards: int = 1) -> Path:
    """Shards of `count` frames each in `folder`: squares of random classes, as deep as their id."""
    rng = np.random.default_rng(seed)
    for shard in range(shards):
        path = folder / f"shard-{shard}"
        frames = create_shard(path, count, SIDE)
        grid = SIDE // SQUARE
        coarse = rng.integers(0, len(CLASSES), (count, grid, grid), np.uint8)
        classes = coarse.repeat(SQUARE, axis=1).repeat(SQUARE, axis=2)
        frames.classes[:] = classes
        frames.images[:] = (classes * PER_CLASS)[..., None]
        frames.depth[:] = 1000 + 200 * classes.astype(np.uint16)
        frames.depth[:, :4, :4] = 0
        frames.rooms[:] = rng.integers(0, len(ROOMS), count)
        finish_shard(path, frames, {})
    return folder
