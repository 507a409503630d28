"""KITTI, Eigen's split, in the layout of the Monocular Depth Estimation Toolbox."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from clsspec_serve.evaluation.datasets.depth_maps import read_depth_png
from clsspec_serve.evaluation.datasets.listing import find_root, listed_depths
from clsspec_serve.evaluation.datasets.samples import DepthDataset
from clsspec_serve.evaluation.datasets.windows import garg, kitti_benchmark


def kitti(root: Path, split: str) -> DepthDataset:
    """What `kitti_eigen_SPLIT.txt` lists: raw pictures in `input`, the dense depths in `gt_depth`.

    Depths are in 1/256 m. Pictures and depths are cropped to 352x1216, and scored in Garg's window
    of that, up to 80 m. Raises UsageError for a root of another layout, DatasetError for what the
    list names and is not there.
    """
    name = f"kitti_eigen_{split}.txt"
    accepted = f"the folder that {name}, input and gt_depth are in"
    base = find_root(root, ("",), (name, "input", "gt_depth"), accepted)
    read = partial(read_depth_png, units=256)
    samples, without = listed_depths(
        base / name, base / "input", base / "gt_depth", read, kitti_benchmark
    )
    return DepthDataset("kitti", 0.001, 80, samples, region=garg, without_depth=without)
