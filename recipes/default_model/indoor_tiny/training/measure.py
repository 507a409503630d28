"""How well a trained network's own decoders do on held-out frames, beside blind baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clsspec_serve.evaluation.depth_score import DepthScore
from clsspec_serve.evaluation.segmentation_score import SegmentationScore
from indoor_tiny.classes import CLASSES
from indoor_tiny.frames import MILLIMETRES, Frames, open_shards
from indoor_tiny.training.augment import CELL, crop_image, whole
from indoor_tiny.training.backbone import normalized
from indoor_tiny.training.baselines import Baselines, count_baselines
from indoor_tiny.training.network import DenseNetwork
from indoor_tiny.training.state import trained

NEAREST, FARTHEST = 0.05, 60.0
"""Metres between which depths are scored."""
_BATCH = 16

Figures = dict[str, float]


class Score:
    """The figures of answers at the frames' own resolution.

    `mean_iou`, `pixel_accuracy`: over all pixels. `abs_rel`, `rmse` (metres): of each frame, then
    the mean. `room_accuracy`: share of the frames.
    """

    def __init__(self) -> None:
        self._classes = SegmentationScore(len(CLASSES))
        self._depth = DepthScore(NEAREST, FARTHEST)
        self._rooms: list[bool] = []

    def add(
        self,
        frames: Frames,
        index: int,
        classes: NDArray[np.integer],
        metres: NDArray[np.float32],
        room: int,
    ) -> None:
        """The answers for one frame. `classes`, `metres`: `(S, S)`, as the frame."""
        self._classes.add(classes, frames.classes[index])
        self._depth.add(metres, frames.depth[index] / np.float32(MILLIMETRES))
        self._rooms.append(room == int(frames.rooms[index]))

    def figures(self) -> Figures:
        classes, depth = self._classes.result(), self._depth.result()
        return {
            "mean_iou": classes.mean_iou,
            "pixel_accuracy": classes.pixel_accuracy,
            "abs_rel": depth.abs_rel,
            "rmse": depth.rmse,
            "room_accuracy": float(np.mean(self._rooms)),
        }


def measure(run: Path, training: Path, held_out: Path) -> dict[str, Any]:
    """The figures of the training in `run` and of the baselines of its training frames.

    `network`: at the last resolution of the training. `constant`: one class, one room and one depth
    for all. `position`: a class and a depth for every position in the frame. The baselines' AbsRel
    is that of their medians, their RMSE that of their means: the best that either can be.
    """
    plan, network = trained(run)
    shards = open_shards(held_out)
    baselines = count_baselines(open_shards(training))
    return {
        "frames": sum(len(shard) for shard in shards),
        "side": plan.last_side,
        "baseline_frames": baselines.frames,
        "network": measure_network(network, shards, plan.last_side),
        "constant": measure_constant(baselines, shards),
        "position": measure_position(baselines, shards),
    }


@torch.inference_mode()
def measure_network(
    network: DenseNetwork, shards: Sequence[Frames], side: int, stride: int = 1
) -> Figures:
    """The figures of a network that is shown every `stride`-th frame at `side` x `side` pixels."""
    score = Score()
    for shard in shards:
        chosen = range(0, len(shard), stride)
        for first in range(0, len(chosen), _BATCH):
            rows = chosen[first : first + _BATCH]
            classes, metres, rooms = _answer(network, shard, rows, side)
            for place, index in enumerate(rows):
                score.add(shard, index, classes[place], metres[place], int(rooms[place]))
    return score.figures()


def measure_constant(baselines: Baselines, shards: Sequence[Frames]) -> Figures:
    """The figures of one answer for every pixel."""
    like = np.ones_like(baselines.class_at)
    return _measure_maps(
        baselines,
        shards,
        baselines.common_class * like,
        np.float32(baselines.median) * like,
        np.float32(baselines.mean) * like,
    )


def measure_position(baselines: Baselines, shards: Sequence[Frames]) -> Figures:
    """The figures of one answer for every position."""
    return _measure_maps(
        baselines, shards, baselines.class_at, baselines.median_at, baselines.mean_at
    )


def _measure_maps(
    baselines: Baselines,
    shards: Sequence[Frames],
    classes: NDArray[np.uint8],
    median: NDArray[np.float32],
    mean: NDArray[np.float32],
) -> Figures:
    """Twice the same answer for every frame: with the median and with the mean depth."""
    by_depth = []
    for metres in (median, mean):
        score = Score()
        wide = _enlarged(classes), _enlarged(metres)
        for shard in shards:
            for index in range(len(shard)):
                score.add(shard, index, *wide, baselines.common_room)
        by_depth.append(score.figures())
    return by_depth[0] | {"rmse": by_depth[1]["rmse"]}


def _enlarged(cells: NDArray[Any]) -> NDArray[Any]:
    return cells.repeat(CELL, axis=0).repeat(CELL, axis=1)


def _answer(
    network: DenseNetwork, shard: Frames, rows: range, side: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], Tensor]:
    """Class ids and metres `(B, S, S)` in the frames' pixels, and rooms `(B,)`."""
    frame = shard.images.shape[1]
    shown = [np.asarray(crop_image(shard.images[index], whole(frame), side)) for index in rows]
    answers = network(normalized(torch.from_numpy(np.stack(shown))))
    classes = _resized(answers.classes, frame).argmax(dim=1)
    metres = _resized(answers.log_depth[:, None], frame)[:, 0].exp()
    return classes.numpy(), metres.numpy(), answers.room.argmax(dim=1)


def _resized(values: Tensor, side: int) -> Tensor:
    return functional.interpolate(values, size=(side, side), mode="bilinear", align_corners=False)
