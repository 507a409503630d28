"""The published data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.ade20k import ade20k
from clsspec_serve.evaluation.datasets.cityscapes import cityscapes
from clsspec_serve.evaluation.datasets.imagenet import imagenet
from clsspec_serve.evaluation.datasets.kitti import kitti
from clsspec_serve.evaluation.datasets.nyu import nyu
from clsspec_serve.evaluation.datasets.samples import Dataset
from clsspec_serve.evaluation.datasets.sun_rgbd import sun_rgbd
from clsspec_serve.evaluation.datasets.voc2012 import voc2012


@dataclass(frozen=True)
class Published:
    """A task, the splits of which the first is the one that is reported, and what opens a root."""

    task: HeadTask
    splits: tuple[str, ...]
    open: Callable[[Path, str], Dataset]


DATASETS = {
    "ade20k": Published("segment", ("val", "train"), ade20k),
    "voc2012": Published("segment", ("val", "train", "trainval"), voc2012),
    "cityscapes": Published("segment", ("val", "train"), cityscapes),
    "nyu": Published("depth", ("test", "train"), nyu),
    "kitti": Published("depth", ("test", "train"), kitti),
    "sun_rgbd": Published("depth", ("val",), sun_rgbd),
    "imagenet": Published("classify", ("val", "train"), imagenet),
}


def open_dataset(name: str, root: Path, split: str | None = None) -> Dataset:
    """The samples of a published data set, whose files are all there; none has been read yet.

    `split`: without one, that on which numbers are reported. Raises UsageError for another name or
    split and for a root of another layout, DatasetError for missing and surplus files.
    """
    if name not in DATASETS:
        raise UsageError(f"there is no data set {name!r}; accepted are {', '.join(DATASETS)}")
    published = DATASETS[name]
    chosen = published.splits[0] if split is None else split
    if chosen not in published.splits:
        accepted = ", ".join(published.splits)
        raise UsageError(f"{name} has no split {chosen!r}; accepted are {accepted}")
    return published.open(root, chosen)
