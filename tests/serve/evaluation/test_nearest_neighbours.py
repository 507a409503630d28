from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation import nearest_neighbours
from clsspec_serve.evaluation.nearest_neighbours import knn_accuracy, nearest


def clusters(count: int, classes: int, seed: int) -> tuple[Any, Any]:
    """Features around one centre for each class, of very different lengths."""
    centres = np.random.default_rng(0).normal(size=(classes, 16))
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    features = centres[labels] + 1.6 * random.normal(size=(count, 16))
    return (features * random.uniform(0.1, 50, (count, 1))).astype(np.float32), labels


def by_votes(train: Any, labels: Any, test: Any, classes: int, k: int, t: float) -> torch.Tensor:
    """DINOv2's rule in PyTorch: a softmax over all similarities of the largest k, one-hot votes."""
    similar = functional.normalize(torch.from_numpy(test).double()) @ (
        functional.normalize(torch.from_numpy(train).double()).T
    )
    top, index = similar.topk(200)
    hot = functional.one_hot(torch.from_numpy(labels)[index], classes)
    return (hot * (top / t).softmax(1)[..., None])[:, :k].sum(1)


def test_votes_are_worked_out_by_hand() -> None:
    # Cosines to (1, 0): 1.0 for class 0, then 0.8 and 0.8 for class 1; the lengths are no matter.
    train = np.asarray([[5, 0], [8, 6], [0.4, -0.3]], np.float32)
    labels, test = np.asarray([0, 1, 1]), np.asarray([[2, 0]], np.float32)
    # T = 0.2: e^0 = 1 against 2 e^-1 = 0.74. T = 0.5: 1 against 2 e^-0.4 = 1.34.
    for temperature, winner in ((0.2, 0), (0.5, 1)):
        found = knn_accuracy(train, labels, test, np.asarray([winner]), 2, (3,), temperature)
        assert found[3].top1 == 1
    # With two neighbours the second class has one vote only.
    assert knn_accuracy(train, labels, test, np.asarray([0]), 2, (2,), 0.5)[2].top1 == 1


def test_the_accuracy_of_every_k_is_that_of_dinov2s_rule() -> None:
    train, train_labels = clusters(900, 12, 1)
    test, test_labels = clusters(150, 12, 2)
    found = knn_accuracy(train, train_labels, test, test_labels, 12)
    assert list(found) == [10, 20, 100, 200]
    for k, result in found.items():
        votes = by_votes(train, train_labels, test, 12, k, 0.07)
        best = votes.topk(5)
        right = (best.indices.numpy() == test_labels[:, None]) & (best.values.numpy() > 0)
        assert result.images == 150
        assert result.top1 == right[:, 0].mean()
        assert result.top5 == right.any(axis=1).mean()
    assert 0.3 < found[10].top1 < 0.95


def test_the_accuracy_does_not_depend_on_how_many_rows_are_compared_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, train_labels = clusters(500, 8, 3)
    test, test_labels = clusters(70, 8, 4)
    whole = knn_accuracy(train, train_labels, test, test_labels, 8)
    monkeypatch.setattr(nearest_neighbours, "_TRAIN_ROWS", 37)
    monkeypatch.setattr(nearest_neighbours, "_TEST_ROWS", 11)
    assert knn_accuracy(train, train_labels, test, test_labels, 8) == whole


def test_neighbours_come_best_first_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbours, "_TRAIN_ROWS", 7)
    train, test = clusters(60, 5, 5)[0], clusters(9, 5, 6)[0]
    index, cosine = nearest(train, test, 13)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (train, test)]
    similar = unit[1] @ unit[0].T
    np.testing.assert_array_equal(index, np.argsort(-similar, axis=1)[:, :13])
    np.testing.assert_allclose(cosine, -np.sort(-similar, axis=1)[:, :13], atol=1e-6)


def test_equal_neighbours_come_in_their_own_order() -> None:
    train = np.asarray([[0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    index, _ = nearest(train, np.asarray([[1, 0]], np.float32), 4)
    assert index.tolist() == [[1, 2, 3, 0]]


def test_a_k_beyond_the_training_rows_takes_all_of_them() -> None:
    train, labels = clusters(12, 3, 7)
    test, test_labels = clusters(20, 3, 8)
    found = knn_accuracy(train, labels, test, test_labels, 3, (12, 200))
    assert found[12] == found[200]


def test_a_class_without_a_vote_is_not_among_the_first_five() -> None:
    train = np.asarray([[1, 0], [1, 0.1]], np.float32)
    test = np.asarray([[1, 0]], np.float32)
    found = knn_accuracy(train, np.asarray([3, 4]), test, np.asarray([0]), 7, (2,))
    assert (found[2].top1, found[2].top5) == (0, 0)


def test_a_row_of_zeros_is_similar_to_nothing_and_no_error() -> None:
    train = np.asarray([[1, 0], [0, 1]], np.float32)
    _, cosine = nearest(train, np.zeros((1, 2), np.float32), 2)
    assert cosine.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("change", "error", "line"),
    [
        (
            {"train_labels": np.asarray([0])},
            UsageError,
            "labels (1,); accepted are (N, D) and (N,)",
        ),
        ({"test_features": np.ones((2, 3), np.float32)}, UsageError, "are 2 and 3 wide"),
        ({"test_features": np.full((2, 2), math.nan, np.float32)}, UsageError, "NaN or infinity"),
        ({"train_labels": np.asarray([0, 9])}, DatasetError, "a label is 9; accepted are 0..1"),
        ({"ks": ()}, UsageError, "k (), temperature 0.07"),
        ({"temperature": 0}, UsageError, "temperature 0; accepted are"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(
    change: dict[str, Any], error: type[Exception], line: str
) -> None:
    arguments: dict[str, Any] = {
        "train_features": np.ones((2, 2), np.float32),
        "train_labels": np.asarray([0, 1]),
        "test_features": np.ones((2, 2), np.float32),
        "test_labels": np.asarray([0, 1]),
        "classes": 2,
    }
    with pytest.raises(error) as caught:
        knn_accuracy(**(arguments | change))
    assert line in str(caught.value)
