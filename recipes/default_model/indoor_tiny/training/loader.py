"""Batches of a training, each a function of the plan, the frames and its step alone."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from indoor_tiny.frames import Frames, open_shards
from indoor_tiny.training.augment import crop_classes, crop_depth, crop_image, random_crop
from indoor_tiny.training.photometric import photograph
from indoor_tiny.training.plan import Plan

_AHEAD = 4


@dataclass(frozen=True)
class Batch:
    """Pictures with their labels, these at cells of `CELL` pixels.

    `images`: `(B, S, S, 3) uint8`. `classes`: `(B, s, s) uint8`. `depth`: `(B, s, s) float32`,
    metres, 0 where there is none. `rooms`: `(B,) int64`.
    """

    images: Tensor
    classes: Tensor
    depth: Tensor
    rooms: Tensor


class Batches(Dataset[Batch]):
    """The batch of every step; every epoch shows all frames in an order of its own."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._shards = open_shards(folder)
        self._ends = list(accumulate(len(shard) for shard in self._shards))
        self._order: tuple[int, NDArray[np.intp]] | None = None

    def __reduce__(self) -> tuple[type[Batches], tuple[Plan, Path]]:
        """Another process opens the frames itself: a memory map is pickled with all it maps."""
        return Batches, (self._plan, self._folder)

    def __len__(self) -> int:
        return self._plan.steps

    def __getitem__(self, step: int) -> Batch:
        first = self._plan.shown_before(step)
        side = self._plan.side_at(step)
        shown = range(first, first + self._plan.batch_at(step))
        images, classes, depth, rooms = zip(*(self._example(n, side) for n in shown), strict=True)
        return Batch(
            images=torch.from_numpy(np.stack(images)),
            classes=torch.from_numpy(np.stack(classes)),
            depth=torch.from_numpy(np.stack(depth)),
            rooms=torch.tensor(rooms),
        )

    def _example(
        self, number: int, side: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], int]:
        """The training's `number`-th picture and its labels."""
        rng = np.random.default_rng([self._plan.seed, 1, number])
        epoch, position = divmod(number, self._ends[-1])
        frames, row = self._locate(int(self._epoch(epoch)[position]))
        crop = random_crop(frames.images.shape[1], self._plan.smallest_crop, rng)
        return (
            np.asarray(photograph(crop_image(frames.images[row], crop, side), rng)),
            crop_classes(frames.classes[row], crop, side),
            crop_depth(frames.depth[row], crop, side),
            int(frames.rooms[row]),
        )

    def _epoch(self, epoch: int) -> NDArray[np.intp]:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self._plan.seed, 0, epoch])
            self._order = epoch, rng.permutation(self._ends[-1])
        return self._order[1]

    def _locate(self, index: int) -> tuple[Frames, int]:
        shard = bisect_right(self._ends, index)
        return self._shards[shard], index - (self._ends[shard - 1] if shard else 0)


def load(batches: Batches, steps: range, workers: int) -> DataLoader[Batch]:
    """The batches of some steps, made ahead of time by `workers` processes, or when asked for."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        generator=torch.Generator(),  # a loader would draw from the training's own otherwise
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )
