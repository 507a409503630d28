"""Labelled pictures of every task to train on, and whether two trainings gave the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from fit_pictures import write_classes, write_depth, write_segmentation

from clsspec_export.fit.fitting import Fitted
from clsspec_serve.choices import HeadTask

SIZE = (28, 42)
Write = Callable[..., None]
TASKS: dict[HeadTask, Write] = {
    "segment": write_segmentation,
    "depth": write_depth,
    "classify": write_classes,
}


def pictures(task: HeadTask, root: Path, count: int = 8, size: tuple[int, int] = SIZE) -> Path:
    if task == "classify":
        write_classes(root, count, size=size)
    else:
        TASKS[task](root, count, size=size, block=14)
    return root


def same(one: Fitted, other: Fitted) -> bool:
    return torch.equal(one.head.weight, other.head.weight) and torch.equal(
        one.head.bias, other.head.bias
    )
