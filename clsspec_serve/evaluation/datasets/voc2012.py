"""PASCAL VOC 2012, segmentation: `VOCdevkit/VOC2012`."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.categories import categories
from clsspec_serve.errors import DatasetError
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.evaluation.datasets.listing import find_root, lines, need_file
from clsspec_serve.evaluation.datasets.samples import SegmentationDataset, SegmentationSample

_MEANING = {IGNORE: IGNORE} | {stored: stored for stored in range(21)}
"""The white contours around objects are 255 and are not scored."""


def voc2012(root: Path, split: str) -> SegmentationDataset:
    """The pictures that `ImageSets/Segmentation/SPLIT.txt` names, with their palette PNGs.

    The root is `VOC2012`, the `VOCdevkit` that it is in, or the folder which that is in. Raises
    UsageError for a root of another layout, DatasetError for what is listed and missing.
    """
    listed = f"ImageSets/Segmentation/{split}.txt"
    accepted = "the folder VOC2012, VOCdevkit, or the one that it is in"
    inside = ("", "VOC2012", "VOCdevkit/VOC2012")
    base = find_root(root, inside, ("JPEGImages", "SegmentationClass", listed), accepted)
    path = base / listed
    samples = tuple(_sample(base, name, path) for name in lines(path))
    return SegmentationDataset("voc2012", categories("voc2012"), samples)


def _sample(base: Path, name: str, listed_in: Path) -> SegmentationSample:
    if len(name.split()) != 1:
        raise DatasetError(f"{listed_in}: has the line {name!r}; accepted is one name a line")
    image = need_file(base / "JPEGImages" / f"{name}.jpg", listed_in)
    label = need_file(base / "SegmentationClass" / f"{name}.png", listed_in)
    return SegmentationSample(name, image, label, _MEANING)
