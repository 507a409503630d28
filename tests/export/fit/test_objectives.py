from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clsspec_export.fit.objectives import Classify, Depth, Segment, enlarged
from clsspec_serve.evaluation.datasets.label_maps import IGNORE


def test_the_segmentation_loss_is_the_cross_entropy_of_the_cells_with_a_class() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 5, generator=generator)
    target = torch.randint(0, 5, (2, 12, 8), generator=generator).to(torch.uint8)
    target[0, :5] = IGNORE
    large = torch.nn.functional.interpolate(
        logits.permute(0, 3, 1, 2), size=(12, 8), mode="bilinear", align_corners=False
    ).double()
    expected, count = 0.0, 0
    for picture, row, column in np.ndindex(2, 12, 8):
        label = int(target[picture, row, column])
        if label != IGNORE:
            values = large[picture, :, row, column].tolist()
            expected += math.log(sum(map(math.exp, values))) - values[label]
            count += 1
    objective = Segment(5)
    assert objective.count(target) == count
    assert float(objective.loss(logits, target)) == pytest.approx(expected, rel=1e-5)


def test_the_depth_loss_is_scale_invariant_but_for_a_share_of_the_mean() -> None:
    truth = np.asarray([[1.0, 2.0, 4.0], [0.0, np.nan, 12.0]], np.float32)
    depth = np.asarray([[1.5, 2.5, 3.0], [9.0, 9.0, 9.0]], np.float32)
    error = np.log(depth[0].astype(np.float64) + 1e-3) - np.log(truth[0] + 1e-3)
    expected = math.sqrt(error.var(ddof=1) + 0.15 * error.mean() ** 2)
    objective = Depth(0.001, 10)
    found = objective.loss(torch.from_numpy(depth)[None], torch.from_numpy(truth)[None])
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_each_picture_counts_as_one_in_the_depth_loss() -> None:
    truth = torch.tensor([[[1.0, 2.0, 3.0]], [[0.0, 0.0, 3.0]], [[2.0, 4.0, 0.0]]])
    depth = torch.tensor([[[2.0, 2.0, 2.0]], [[9.0, 9.0, 9.0]], [[1.0, 5.0, 7.0]]])
    objective = Depth(0.001, 10)
    assert objective.count(truth) == 2  # a single depth has no variance
    alone = [objective.loss(depth[i : i + 1], truth[i : i + 1]) for i in (0, 2)]
    assert float(objective.loss(depth, truth)) == pytest.approx(float(sum(alone)))


def test_an_exact_depth_and_one_without_truth_have_a_finite_slope() -> None:
    depth = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]], requires_grad=True)
    truth = torch.tensor([[[1.0, 2.0]], [[0.0, 0.0]]])
    torch.autograd.backward(Depth(0.001, 10).loss(depth, truth))
    assert depth.grad is not None
    assert depth.grad.abs().sum() == 0


def test_the_classification_loss_is_the_cross_entropy() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 3.0, 1.0]])
    expected = sum(
        math.log(sum(map(math.exp, row))) - row[label]
        for row, label in zip(logits.tolist(), (2, 1), strict=True)
    )
    found = Classify(3).loss(logits, torch.tensor([2, 1]))
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_figures_are_those_of_the_evaluation_and_rank_better_ones_higher() -> None:
    right = torch.zeros(1, 2, 2, 2)
    right[..., 1] = 1
    target = torch.ones(1, 8, 8, dtype=torch.uint8)
    target[:, :2] = 0
    score = Segment(2).score()
    score.add(right, target)
    assert score.figure().text == "mIoU 37.5 %, accuracy 75.0 %, in cells of a quarter patch"
    assert score.figure().rank == pytest.approx(0.375)

    score = Depth(0.001, 10).score()
    score.add(torch.tensor([[[2.0, 4.0]]]), torch.tensor([[[1.0, 4.0]]]))
    assert score.figure().rank == pytest.approx(-math.sqrt(0.5))
    assert score.figure().text == "RMSE 0.707 m, δ1 50.0 %, in cells of a quarter patch"

    score = Classify(2).score()
    score.add(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1]))
    assert score.figure().text == "top-1 50.0 %"


def test_logits_are_enlarged_four_times() -> None:
    assert enlarged(torch.zeros(2, 3, 5, 7)).shape == (2, 7, 12, 20)
