"""People's own labelled pictures, in the simplest layouts; for classes see `class_folders`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.depth_maps import read_depth_array, read_depth_png
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.evaluation.datasets.listing import PICTURES, files_by_name, find_root, pairs
from clsspec_serve.evaluation.datasets.samples import (
    DepthDataset,
    DepthSample,
    SegmentationDataset,
    SegmentationSample,
)
from clsspec_serve.heads import Category


def segmentation_folders(root: Path, categories: tuple[Category, ...]) -> SegmentationDataset:
    """`images/NAME.*` and `labels/NAME.png`, which hold the classes' ids; 255 is not scored.

    Raises UsageError for a root of another layout and for more than 255 classes, DatasetError for
    files without a partner.
    """
    if len(categories) > IGNORE:
        raise UsageError(f"there are {len(categories)} classes; accepted are up to {IGNORE}")
    base = find_root(root, ("",), ("images", "labels"), "a folder with images and labels in it")
    images = files_by_name(base / "images", PICTURES)
    labels = files_by_name(base / "labels", (".png",))
    meaning = {IGNORE: IGNORE} | {stored: stored for stored in range(len(categories))}
    samples = tuple(SegmentationSample(*pair, meaning) for pair in pairs(images, labels))
    return SegmentationDataset("folders", categories, samples)


def depth_folders(
    root: Path, minimum: float, maximum: float, units: float | None = None
) -> DepthDataset:
    """`images/NAME.*` and `depth/NAME.png` (16-bit grey) or `.npy`.

    `units`: how many units of the stored numbers are a metre; without it PNGs hold millimetres and
    arrays metres. `minimum`, `maximum`: see `DepthScore`. Raises UsageError for a root of another
    layout and for units that are not above 0, DatasetError for files without a partner.
    """
    if units is not None and not 0 < units < float("inf"):
        raise UsageError(f"{units} units in a metre; accepted are numbers above 0")
    base = find_root(root, ("",), ("images", "depth"), "a folder with images and depth in it")
    images = files_by_name(base / "images", PICTURES)
    depths = files_by_name(base / "depth", (".png", ".npy"))
    readers = {
        ".png": partial(read_depth_png, units=1000 if units is None else units),
        ".npy": partial(read_depth_array, units=1 if units is None else units),
    }
    samples = tuple(
        DepthSample(name, image, depth, readers[depth.suffix.lower()])
        for name, image, depth in pairs(images, depths)
    )
    return DepthDataset("folders", minimum, maximum, samples)
