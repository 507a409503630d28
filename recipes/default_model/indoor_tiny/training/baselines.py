"""What can be said of a held-out frame without looking at it, from the training frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indoor_tiny.classes import CLASSES, ROOMS
from indoor_tiny.frames import Frames
from indoor_tiny.training.augment import CELL, crop_classes, crop_depth, whole

MOST = 4096
"""Training frames that are counted at most, evenly spread."""

_NEAREST, _FARTHEST, _BINS = 0.05, 66.0, 360
"""Bins of the log depth are 2 % wide and reach as far as 16 bits of millimetres."""


@dataclass(frozen=True)
class Baselines:
    """Constant answers, and for every position of a frame the best answer there.

    By position in cells of `CELL` pixels, `(s, s)`. The medians weigh a pixel by the inverse of its
    depth, which makes them the answers with the least AbsRel; the means have the least RMSE. All
    depths are in metres.
    """

    frames: int
    common_class: int
    common_room: int
    class_at: NDArray[np.uint8]
    median: float
    mean: float
    median_at: NDArray[np.float32]
    mean_at: NDArray[np.float32]


def count_baselines(shards: Sequence[Frames], most: int = MOST) -> Baselines:
    """The baselines of at most `most` frames, one frame in memory at a time."""
    frame = shards[0].classes.shape[1]
    cells = frame // CELL
    classes = np.zeros((len(CLASSES), cells, cells), np.int64)
    depths = np.zeros((_BINS, cells, cells), np.int32)
    sums, valid = np.zeros((cells, cells)), np.zeros((cells, cells))
    rooms = np.zeros(len(ROOMS), np.int64)
    rows, columns = np.indices((cells, cells))
    crop, seen = whole(frame), 0
    stride = -(-sum(len(shard) for shard in shards) // most)
    for shard in shards:
        for index in range(0, len(shard), stride):
            classes[crop_classes(shard.classes[index], crop, frame), rows, columns] += 1
            depth = crop_depth(shard.depth[index], crop, frame)
            hit = depth > 0
            depths[_bin(depth[hit]), rows[hit], columns[hit]] += 1
            sums += depth
            valid += hit
            rooms[shard.rooms[index]] += 1
            seen += 1
    return Baselines(
        frames=seen,
        common_class=int(classes.sum(axis=(1, 2)).argmax()),
        common_room=int(rooms.argmax()),
        class_at=classes.argmax(axis=0).astype(np.uint8),
        median=float(_median(depths.sum(axis=(1, 2)))),
        mean=float(sums.sum() / max(valid.sum(), 1)),
        median_at=_median(depths),
        mean_at=(sums / valid.clip(1)).astype(np.float32),
    )


def _bin(metres: NDArray[np.float32]) -> NDArray[np.intp]:
    place = np.log(metres / _NEAREST) / np.log(_FARTHEST / _NEAREST) * _BINS
    return place.astype(np.intp).clip(0, _BINS - 1)


def _median(counts: NDArray[np.integer]) -> NDArray[np.float32]:
    """`(...)` metres of counts `(_BINS, ...)`, each weighed by the inverse of its depth."""
    centres = _NEAREST * (_FARTHEST / _NEAREST) ** ((np.arange(_BINS) + 0.5) / _BINS)
    weights = np.cumsum(counts / centres.reshape(-1, *[1] * (counts.ndim - 1)), axis=0)
    return centres.astype(np.float32)[(weights >= weights[-1] / 2).argmax(axis=0)]
