"""NYU Depth v2 in the layout of BTS and of the Monocular Depth Estimation Toolbox."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from clsspec_serve.evaluation.datasets.depth_maps import read_depth_png
from clsspec_serve.evaluation.datasets.listing import find_root, listed_depths
from clsspec_serve.evaluation.datasets.samples import DepthDataset
from clsspec_serve.evaluation.datasets.windows import eigen, nyu_without_border, whole
from clsspec_serve.evaluation.datasets.windows import nyu as nyu_window


def nyu(root: Path, split: str) -> DepthDataset:
    """What `nyu_SPLIT.txt` lists, `PICTURE DEPTH FOCAL` below the root; depths in millimetres.

    Tested on whole pictures, and scored in Eigen's window up to 10 m; trained without the white
    border. Raises UsageError for a root of another layout, DatasetError for what the list names and
    is not there.
    """
    name = f"nyu_{split}.txt"
    base = find_root(root, ("",), (name,), f"the folder that {name} and its pictures are in")
    crop = nyu_without_border if split == "train" else nyu_window
    read = partial(read_depth_png, units=1000)
    samples, without = listed_depths(base / name, base, base, read, crop)
    region = whole if split == "train" else eigen
    return DepthDataset("nyu", 0.001, 10, samples, region=region, without_depth=without)
