"""Frames as folders of pictures, in the layout that `clsspec fit` and `clsspec eval` read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from indoor_tiny.classes import CLASSES, COLOURS
from indoor_tiny.frames import Frames, open_shards
from indoor_tiny.training.photometric import photograph


def write_folder(frames: Path, folder: Path, rows: range, *, seed: int | None = None) -> None:
    """`images`, `labels`, `depth` and `classes.txt` of some frames, counted over all shards.

    With a `seed` the pictures are changed as in the training, so that a head learns to stand it.
    """
    shards = open_shards(frames)
    for name in ("images", "labels", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for row in rows:
        shard, index = _locate(shards, row)
        image = Image.fromarray(shard.images[index])
        if seed is not None:
            image = photograph(image, np.random.default_rng([seed, row]))
        name = f"{row:06d}.png"
        image.save(folder / "images" / name)
        Image.fromarray(shard.classes[index]).save(folder / "labels" / name)
        Image.fromarray(shard.depth[index]).save(folder / "depth" / name)
    lines = (f"{name} {colour}\n" for name, colour in zip(CLASSES, COLOURS, strict=True))
    (folder / "classes.txt").write_text("".join(lines), encoding="utf-8")


def _locate(shards: Sequence[Frames], row: int) -> tuple[Frames, int]:
    for shard in shards:
        if row < len(shard):
            return shard, row
        row -= len(shard)
    raise IndexError("there are fewer frames than were asked for")
