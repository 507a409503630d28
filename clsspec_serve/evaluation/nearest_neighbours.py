"""Classification by the nearest neighbours' votes, as DINO and its successors report it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.classification_score import (
    ClassificationResult,
    ClassificationScore,
    check_labels,
)
from clsspec_serve.evaluation.datasets.depth_maps import FloatArray

KS = (10, 20, 100, 200)
TEMPERATURE = 0.07

_TEST_ROWS = 1024
_TRAIN_ROWS = 8192
"""Rows compared at a time: similarities, order and normalised features take some 200 MB."""


def knn_accuracy(
    train_features: FloatArray,
    train_labels: NDArray[np.integer],
    test_features: FloatArray,
    test_labels: NDArray[np.integer],
    classes: int,
    ks: Sequence[int] = KS,
    temperature: float = TEMPERATURE,
) -> dict[int, ClassificationResult]:
    """The accuracy for every k.

    Features `(N, D)` float32, which are L2-normalised here; labels `(N,)` in 0..classes-1. Each of
    the k most similar training rows votes for its class with exp(cosine / temperature) (DINOv2,
    `eval/knn.py`; its softmax divides all votes of a row by one number, which orders nothing
    differently). A class without a vote is never among the first five. A k beyond the training
    rows takes all of them. Raises UsageError for arrays that do not fit and for features that are
    not finite, DatasetError for a label that is no class.
    """
    _check(train_features, train_labels, classes)
    _check(test_features, test_labels, classes)
    if train_features.shape[1] != test_features.shape[1]:
        widths = f"{train_features.shape[1]} and {test_features.shape[1]}"
        raise UsageError(f"features of train and test are {widths} wide; accepted is one width")
    if not ks or min(ks) < 1 or temperature <= 0:
        raise UsageError(f"k {tuple(ks)}, temperature {temperature}; accepted are 1 and more, > 0")
    scores = {k: ClassificationScore(classes) for k in sorted(ks)}
    for start in range(0, len(test_features), _TEST_ROWS):
        rows = slice(start, start + _TEST_ROWS)
        near, similar = nearest(train_features, test_features[rows], max(ks))
        weights = np.exp((similar.astype(np.float64) - similar[:, :1]) / temperature)
        for k, votes in _votes(train_labels[near], weights, classes, tuple(scores)):
            scores[k].add(np.where(votes > 0, votes, -np.inf), test_labels[rows])
    return {k: score.result() for k, score in scores.items()}


def nearest(train: FloatArray, test: FloatArray, k: int) -> tuple[NDArray[np.int64], FloatArray]:
    """The most similar training rows of every test row, `(N, k)`, and their cosines, best first.

    All of them when there are less than k. Rows of equal similarity come in their own order; which
    of them are left out where k falls between them is not defined.
    """
    goal = _normalised(test)
    index = np.zeros((len(test), 0), np.int64)
    cosine = np.zeros((len(test), 0), np.float32)
    for start in range(0, len(train), _TRAIN_ROWS):
        block = goal @ _normalised(train[start : start + _TRAIN_ROWS]).T
        rows = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        more_index, more_cosine = _best(rows, block, k)
        index = np.hstack([index, more_index])
        cosine = np.hstack([cosine, more_cosine])
        index, cosine = _best(index, cosine, k)
    order = np.argsort(-cosine, axis=1, kind="stable")
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(cosine, order, axis=1)


def _best(
    index: NDArray[np.int64], cosine: FloatArray, k: int
) -> tuple[NDArray[np.int64], FloatArray]:
    """The k largest of every row, in the order in which they stand."""
    if cosine.shape[1] <= k:
        return index, cosine
    best = np.sort(np.argpartition(cosine, -k, axis=1)[:, -k:], axis=1)
    return np.take_along_axis(index, best, axis=1), np.take_along_axis(cosine, best, axis=1)


def _votes(
    labels: NDArray[np.integer], weights: NDArray[np.float64], classes: int, ks: tuple[int, ...]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(k, votes `(N, classes)`) for ascending k; the array is one, which grows."""
    votes = np.zeros((len(labels), classes))
    rows = np.arange(len(labels))[:, None]
    for before, k in pairwise((0, *ks)):
        np.add.at(votes, (rows, labels[:, before:k]), weights[:, before:k])
        yield k, votes


def _normalised(features: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise UsageError("features have NaN or infinity; accepted are finite numbers")
    return (features / np.maximum(lengths, 1e-12)).astype(np.float32)


def _check(features: FloatArray, labels: NDArray[np.integer], classes: int) -> None:
    if features.ndim != 2 or labels.shape != (len(features),) or not features.size:
        raise UsageError(
            f"features are {features.shape}, labels {labels.shape}; accepted are (N, D) and (N,)"
        )
    check_labels(labels, classes)
