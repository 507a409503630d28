"""Rendered frames on disk: four arrays of one length, memory-mapped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

SHARDS = "shard-*"
_DONE = "done.json"
MILLIMETRES = 1000


@dataclass(frozen=True)
class Frames:
    """Frames of one or more shards; shard after shard, each array memory-mapped.

    `images`: `(N, S, S, 3) uint8`, sRGB. `classes`: `(N, S, S) uint8`, ids of `CLASSES`. `depth`:
    `(N, S, S) uint16`, millimetres along the optical axis; 0 where nothing was hit. `rooms`:
    `(N,) uint8`, ids of `ROOMS`.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    rooms: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.rooms)


def create_shard(folder: Path, count: int, side: int) -> Frames:
    """Empty frames to be written in place; `finish_shard` makes them count."""
    folder.mkdir(parents=True, exist_ok=True)

    def array(name: str, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        mapped: NDArray[Any] = open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        return mapped

    return Frames(
        images=array("images", (count, side, side, 3), np.uint8),
        classes=array("classes", (count, side, side), np.uint8),
        depth=array("depth", (count, side, side), np.uint16),
        rooms=array("rooms", (count,), np.uint8),
    )


def finish_shard(folder: Path, frames: Frames, facts: dict[str, Any]) -> None:
    """Flush the arrays, then note that they are whole, with `facts` on how they were made."""
    for array in (frames.images, frames.classes, frames.depth, frames.rooms):
        if isinstance(array, np.memmap):
            array.flush()
    part = folder / f".{_DONE}.tmp"
    part.write_text(json.dumps(facts | {"frames": len(frames)}, indent=1), encoding="utf-8")
    part.replace(folder / _DONE)


def is_finished(folder: Path) -> bool:
    """Whether a shard is whole."""
    return (folder / _DONE).is_file()


def open_shards(folder: Path) -> list[Frames]:
    """The finished shards of a folder, in order, read-only.

    Raises `FileNotFoundError` where there is none.
    """
    found = [each for each in sorted(folder.glob(SHARDS)) if is_finished(each)]
    if not found:
        raise FileNotFoundError(f"{folder}: holds no finished shard of frames; render some first")
    return [
        Frames(
            *(
                np.load(each / f"{name}.npy", mmap_mode="r")
                for name in ("images", "classes", "depth", "rooms")
            )
        )
        for each in found
    ]
