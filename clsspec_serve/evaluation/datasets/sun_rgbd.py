"""SUN RGB-D in the layout of the Monocular Depth Estimation Toolbox."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.evaluation.datasets.depth_maps import read_rotated_png
from clsspec_serve.evaluation.datasets.listing import find_root, listed_depths
from clsspec_serve.evaluation.datasets.samples import DepthDataset
from clsspec_serve.evaluation.datasets.windows import eigen


def sun_rgbd(root: Path, split: str) -> DepthDataset:
    """What `SUNRGBD_SPLIT_splits.txt` lists: paths that begin with `SUNRGBD/`, below the root.

    As the toolbox scores them, with heads trained on NYUv2: in Eigen's window, up to 10 m, depths
    and predictions beyond 8 m counting as 8 m. Raises UsageError for a root of another layout,
    DatasetError for what the list names and is not there.
    """
    name = f"SUNRGBD_{split}_splits.txt"
    base = find_root(root, ("",), (name,), f"the folder that {name} and SUNRGBD are in")
    samples, without = listed_depths(base / name, base, base, read_rotated_png)
    # DINOv2's configuration of its heads says img_scale=(480, 640) without keeping the ratio, and
    # mmcv reads that as (width, height): the pictures are shown upright, although they are wider
    # than high. Its published numbers are of that.
    return DepthDataset(
        "sun_rgbd",
        0.001,
        10,
        samples,
        cap=8,
        region=eigen,
        without_depth=without,
        size=(640, 480),
    )
