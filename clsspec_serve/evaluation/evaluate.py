"""A bundle's heads on labelled pictures: every picture predicted, every prediction scored."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.choices import Task
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.evaluation.classification_score import ClassificationResult, ClassificationScore
from clsspec_serve.evaluation.datasets.depth_maps import FloatArray
from clsspec_serve.evaluation.datasets.samples import (
    Dataset,
    DepthDataset,
    Pixels,
    SegmentationDataset,
)
from clsspec_serve.evaluation.depth_score import DepthResult, DepthScore
from clsspec_serve.evaluation.segmentation_score import SegmentationResult, SegmentationScore
from clsspec_serve.geometry import Geometry
from clsspec_serve.predictor import Model, Prediction
from clsspec_serve.progress import progress
from clsspec_serve.request import Options

Result = SegmentationResult | DepthResult | ClassificationResult
Truth = TypeVar("Truth", covariant=True)
Item = TypeVar("Item")


class Sample(Protocol[Truth]):
    """A labelled picture that is read when it is needed."""

    @property
    def image(self) -> Path: ...

    def load(self) -> tuple[Pixels, Truth]: ...


def evaluate(
    model: Model,
    dataset: Dataset,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    **options: Unpack[Options],
) -> Result:
    """The score of the head for the data set's task, under a progress bar.

    `options`: what `protocol_of` gives. `limit`: see `spread`. No more pictures and truths are in
    memory than a batch has. Raises DatasetError or ImageError for the first file that cannot be
    read: a score of the others would not be that of the data set. Raises UsageError where the
    options show the model only a part of a picture that is scored all over.
    """
    if isinstance(dataset, SegmentationDataset):
        masks = SegmentationScore(len(dataset.categories))

        def add_mask(image: Path, found: Prediction, ids: NDArray[np.uint8]) -> None:
            _require_whole(image, found.geometry)
            masks.add(found.segment, ids)

        segmented = spread(dataset.samples, limit)
        predict_all(model, segmented, "Evaluating", add_mask, batch_size=batch_size, **options)
        return masks.result()
    if isinstance(dataset, DepthDataset):
        depths = DepthScore(dataset.minimum, dataset.maximum, dataset.region, dataset.cap)

        def add_depth(image: Path, found: Prediction, metres: FloatArray) -> None:
            _require_whole(image, found.geometry)
            depths.add(found.depth, metres)

        measured = spread(dataset.samples, limit)
        predict_all(model, measured, "Evaluating", add_depth, batch_size=batch_size, **options)
        return depths.result()
    classes = ClassificationScore(len(dataset.classes))

    def add_class(_: Path, found: Prediction, label: int) -> None:
        classes.add(found.classify, label)

    labelled = spread(dataset.samples, limit)
    predict_all(model, labelled, "Evaluating", add_class, batch_size=batch_size, **options)
    return classes.result()


def protocol_of(dataset: Dataset, task: Task, options: Options) -> Options:
    """What to ask of the model: the task alone, so that its head's own protocol holds.

    Options that are given go first, then the data set's own size, then the protocol of the head;
    `cls`, which needs none, is shown what the backbone's own evaluation shows it.
    """
    asked: Options = {"flip": None, **options, "tasks": (task,)}
    size = dataset.size if isinstance(dataset, DepthDataset) else None
    if size is None:
        return asked
    own: Options = {
        "size": asked.get("size") or size,
        "policy": asked.get("policy") or "squash",
    }
    return {**asked, **own}


def spread(samples: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """At most so many, evenly over all of them, as neighbours are of one class or one scene."""
    count = len(samples) if limit is None else min(limit, len(samples))
    return tuple(samples[index * len(samples) // count] for index in range(count))


def predict_all(
    model: Model,
    samples: Sequence[Sample[Item]],
    doing: str,
    take: Callable[[Path, Prediction, Item], None],
    *,
    batch_size: int,
    **options: Unpack[Options],
) -> None:
    """Give `take` each picture's file, prediction and truth, in order, under a bar called `doing`.

    A sample is read when the network is ready for it. Raises ImageError naming the file.
    """
    waiting: deque[tuple[Path, Item]] = deque()

    def pictures() -> Iterator[Pixels]:
        for sample in samples:
            pixels, truth = sample.load()
            waiting.append((sample.image, truth))
            yield pixels

    def refuse(_: Pixels, error: ImageError) -> None:
        raise ImageError(f"{waiting[-1][0]}: {error}") from error

    with progress(doing, len(samples), "images") as meter:
        for _, found in model.predict_each(pictures(), refuse, batch_size=batch_size, **options):
            image, truth = waiting.popleft()
            take(image, found, truth)
            meter.advance()


def _require_whole(image: Path, geometry: Geometry) -> None:
    top, left, height, width = geometry.crop
    resized = geometry.resized
    if top > 0 or left > 0 or top + height < resized[0] or left + width < resized[1]:
        raise UsageError(
            f"{image}: the model would be shown {height}x{width} of {resized[0]}x{resized[1]} "
            "pixels, and all are scored; accepted is what shows all of it, such as --resize short"
        )
