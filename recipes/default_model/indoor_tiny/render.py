"""Fill shards with frames, in as many processes as there are cores; whole shards are kept."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from indoor_tiny.frames import create_shard, finish_shard, is_finished
from indoor_tiny.scenes.meshes import unpack
from indoor_tiny.scenes.stage import SPLITS, Stage

SHARD = 500
"""Frames of a shard."""

_UNPACKED = "furniture"


@dataclass(frozen=True)
class Rendering:
    """How many frames of `side` pixels each split has, drawn from a seed.

    `textures`, `held_out_textures`: drawn of each family of textures.
    """

    train: int
    held_out: int
    side: int
    seed: int
    textures: int
    held_out_textures: int

    def count(self, split: str) -> int:
        """Frames of a split."""
        return self.train if split == "train" else self.held_out


def render(rendering: Rendering, furniture: Path, folder: Path, workers: int) -> None:
    """Render what is not there yet into `folder/SPLIT/shard-NNN`.

    `furniture`: the folder with the libraries `*.sh3f`. What a shard holds depends on the seed,
    the split and its number only, not on the number of `workers`.
    """
    unpack(furniture, folder / _UNPACKED)
    for split in SPLITS:
        numbers = range(-(-rendering.count(split) // SHARD))
        missing = [n for n in numbers if not is_finished(_shard(folder, split, n))]
        parts = [part for n in range(workers) if (part := missing[n::workers])]
        if not parts:
            continue
        fill = partial(_fill, rendering, furniture, folder, split)
        # A fork would share the OpenGL driver's threads.
        with multiprocessing.get_context("spawn").Pool(len(parts)) as pool:
            pool.map(fill, parts, chunksize=1)


def _fill(
    rendering: Rendering, furniture: Path, folder: Path, split: str, numbers: list[int]
) -> None:
    textures = rendering.textures if split == "train" else rendering.held_out_textures
    stage = Stage(split, furniture, folder / _UNPACKED, rendering.side, textures)
    for number in numbers:
        start = time.perf_counter()
        count = min(SHARD, rendering.count(split) - number * SHARD)
        shard = _shard(folder, split, number)
        frames = create_shard(shard, count, rendering.side)
        seed = (rendering.seed, SPLITS.index(split), number)
        for index, frame in enumerate(stage.frames(seed, count)):
            frames.images[index], frames.classes[index] = frame.image, frame.classes
            frames.depth[index], frames.rooms[index] = frame.depth, frame.room
        finish_shard(shard, frames, {"split": split, "seed": seed})
        seconds = (time.perf_counter() - start) / count
        print(f"{split}: shard {number}, {count} frames, {seconds:.3f} s each", flush=True)


def _shard(folder: Path, split: str, number: int) -> Path:
    return folder / split / f"shard-{number:03d}"
