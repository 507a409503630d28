"""Classification by the nearest neighbours of [CLS] embeddings, which needs no head."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.classification_score import ClassificationResult
from clsspec_serve.evaluation.datasets.depth_maps import FloatArray
from clsspec_serve.evaluation.datasets.samples import (
    ClassificationDataset,
    Dataset,
    LabelledPicture,
)
from clsspec_serve.evaluation.evaluate import predict_all, spread
from clsspec_serve.evaluation.matching import check_same_classes
from clsspec_serve.evaluation.nearest_neighbours import KS, knn_accuracy
from clsspec_serve.predictor import Model, Prediction
from clsspec_serve.progress import progress
from clsspec_serve.request import Options

_ROWS = 1024
"""Pictures compared between two steps of the progress bar."""


@dataclass(frozen=True)
class NeighboursResult:
    """The accuracy by k, of `images` pictures among `train` training pictures."""

    by_k: dict[int, ClassificationResult]
    images: int
    train: int


def evaluate_neighbours(
    model: Model,
    train: Dataset,
    test: Dataset,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    **options: Unpack[Options],
) -> NeighboursResult:
    """The accuracy for the usual k, as far as there are so many training pictures.

    The features are the last layer's [CLS] with the final norm, L2-normalised (`knn_accuracy`).
    Those of all training pictures are held in memory: `N * D * 4` bytes, 5 GB for ImageNet and a
    ViT-L. `options`: what `protocol_of` gives. `limit`: of the pictures to classify; see `spread`.
    Raises UsageError for classes that differ, for a picture that is on both sides, as it would find
    itself, and for features that are not finite; DatasetError for too few training pictures;
    ImageError naming a file.
    """
    if not (isinstance(train, ClassificationDataset) and isinstance(test, ClassificationDataset)):
        raise UsageError(f"{test.name} has no class for each picture; accepted is one that has")
    check_same_classes(train, test)
    samples = spread(test.samples, limit)
    _check_apart(train.samples, samples)
    ks = tuple(k for k in KS if k <= len(train.samples))
    if not ks:
        raise DatasetError(
            f"there are {len(train.samples)} pictures to train on; accepted are {min(KS)} and more"
        )
    known, labels = _features(model, train.samples, "Training", batch_size, options)
    seen, truths = _features(model, samples, "Evaluating", batch_size, options)
    parts: dict[int, list[ClassificationResult]] = {k: [] for k in ks}
    with progress("Comparing", len(seen), "images") as meter:
        for start in range(0, len(seen), _ROWS):
            rows = slice(start, start + _ROWS)
            found = knn_accuracy(known, labels, seen[rows], truths[rows], len(test.classes), ks)
            for k, result in found.items():
                parts[k].append(result)
            meter.advance(len(seen[rows]))
    by_k = {k: _together(results) for k, results in parts.items()}
    return NeighboursResult(by_k, len(samples), len(train.samples))


def _features(
    model: Model,
    samples: Sequence[LabelledPicture],
    doing: str,
    batch_size: int,
    options: Options,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """[CLS] of all pictures `(N, D)`, and their classes `(N,)`."""
    features = np.empty((len(samples), model.manifest.architecture.embed_dim), np.float32)
    labels = np.empty(len(samples), np.int64)
    rows = iter(range(len(samples)))

    def keep(_: Path, found: Prediction, label: int) -> None:
        row = next(rows)
        features[row], labels[row] = found.cls, label

    predict_all(model, samples, doing, keep, batch_size=batch_size, **options)
    return features, labels


def _together(results: Sequence[ClassificationResult]) -> ClassificationResult:
    """The shares of all pictures from those of parts of them."""
    images = sum(result.images for result in results)
    top1 = sum(round(result.top1 * result.images) for result in results) / images
    fives = [round(r.top5 * r.images) for r in results if r.top5 is not None]
    return ClassificationResult(top1, sum(fives) / images if fives else None, images)


def _check_apart(train: Sequence[LabelledPicture], test: Sequence[LabelledPicture]) -> None:
    folder = cache(os.path.realpath)

    def place(sample: LabelledPicture) -> str:
        return os.path.join(folder(sample.image.parent), sample.image.name)

    known = {place(sample) for sample in train}
    for sample in test:
        if place(sample) in known:
            raise UsageError(
                f"{sample.image}: is among the pictures to train on, where it would find itself; "
                "accepted is --train with other pictures"
            )
