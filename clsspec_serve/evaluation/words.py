"""The words that an evaluation is asked for in; imports nothing."""

from __future__ import annotations

from typing import Literal

DatasetName = Literal[
    "folders", "ade20k", "voc2012", "cityscapes", "nyu", "kitti", "sun_rgbd", "imagenet"
]
"""`folders` are one's own pictures; the others are published."""
EvalTask = Literal["segment", "depth", "classify", "knn"]
"""Three kinds of head, and the nearest neighbours of [CLS], which need none."""
