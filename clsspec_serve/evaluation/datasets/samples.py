"""A labelled data set: its samples, read one at a time, and what is constant over them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import DatasetError
from clsspec_serve.evaluation.datasets.depth_maps import FloatArray
from clsspec_serve.evaluation.datasets.label_maps import read_ids
from clsspec_serve.evaluation.datasets.windows import Size, Window, whole
from clsspec_serve.heads import Category
from clsspec_serve.images import read_image

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentationSample:
    """A picture and the file of its pixels' classes; `meaning` as in `read_ids`."""

    name: str
    image: Path
    label: Path
    meaning: Mapping[int, int]

    def load(self) -> tuple[Pixels, NDArray[np.uint8]]:
        """`(H, W, 3)` uint8 RGB and the classes `(H, W)` uint8, 255 where they do not count.

        Raises ImageError for the picture; DatasetError for the label and when their sizes differ.
        """
        pixels, ids = read_image(self.image), read_ids(self.label, self.meaning)
        _check_sizes(pixels, ids, self.image, self.label)
        return pixels, ids


@dataclass(frozen=True)
class DepthSample:
    """A picture and the file of its depths, which `read` turns to metres.

    `crop` is the part that a model is shown and scored on.
    """

    name: str
    image: Path
    depth: Path
    read: Callable[[Path], FloatArray]
    crop: Window = whole

    def load(self) -> tuple[Pixels, FloatArray]:
        """`(H, W, 3)` uint8 RGB and metres `(H, W)` float32, both cropped.

        0 or NaN metres where nothing was measured. Raises ImageError for the picture; DatasetError
        for the depth, when their sizes differ, and for a size that the crop does not fit in.
        """
        pixels, metres = read_image(self.image), self.read(self.depth)
        _check_sizes(pixels, metres, self.image, self.depth)
        try:
            rows, columns = self.crop((metres.shape[0], metres.shape[1]))
        except ValueError as error:
            raise DatasetError(f"{self.image}: {error}") from error
        return pixels[rows, columns], metres[rows, columns]


@dataclass(frozen=True)
class LabelledPicture:
    """A picture and the index of its class."""

    name: str
    image: Path
    label: int

    def load(self) -> tuple[Pixels, int]:
        """`(H, W, 3)` uint8 RGB and the class. Raises ImageError."""
        return read_image(self.image), self.label


@dataclass(frozen=True)
class SegmentationDataset:
    """Pictures whose pixels have classes, which count from 0 in the order of `categories`."""

    task: ClassVar[Literal["segment"]] = "segment"
    name: str
    categories: tuple[Category, ...]
    samples: tuple[SegmentationSample, ...]


@dataclass(frozen=True)
class DepthDataset:
    """Pictures with depths in metres.

    `minimum`, `maximum`, `cap`, `region`: see `DepthScore`. `without_depth`: how many pictures the
    data set lists that have no depth file; they are not among the samples. `size`: the (H, W) to
    which the published evaluation resizes pictures, regardless of their aspect ratio, in place of
    the head's own; None: as the head does.
    """

    task: ClassVar[Literal["depth"]] = "depth"
    name: str
    minimum: float
    maximum: float
    samples: tuple[DepthSample, ...]
    cap: float | None = None
    region: Window = whole
    without_depth: int = 0
    size: Size | None = None


@dataclass(frozen=True)
class ClassificationDataset:
    """Pictures of one class each, which count from 0 in the order of `classes`."""

    task: ClassVar[Literal["classify"]] = "classify"
    name: str
    classes: tuple[str, ...]
    samples: tuple[LabelledPicture, ...]


Dataset = SegmentationDataset | DepthDataset | ClassificationDataset


def _check_sizes(pixels: Pixels, truth: NDArray[np.generic], image: Path, label: Path) -> None:
    if pixels.shape[:2] != truth.shape:
        seen, stated = (f"{shape[0]}x{shape[1]}" for shape in (pixels.shape, truth.shape))
        raise DatasetError(f"{label}: is {stated}; accepted is {seen}, the size of {image}")
