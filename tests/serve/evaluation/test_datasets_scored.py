"""Data sets and scores together, as an evaluation runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_folders import (
    SUN_SIZE,
    VOC_IDS,
    ramp,
    write_ade20k,
    write_cityscapes,
    write_imagenet,
    write_kitti,
    write_nyu,
    write_sun_rgbd,
    write_voc2012,
)

from clsspec_serve.evaluation.classification_score import ClassificationScore
from clsspec_serve.evaluation.datasets.published import open_dataset
from clsspec_serve.evaluation.datasets.samples import DepthDataset, SegmentationDataset
from clsspec_serve.evaluation.depth_score import DepthResult, DepthScore
from clsspec_serve.evaluation.segmentation_score import SegmentationScore

WRITERS = {"ade20k": write_ade20k, "voc2012": write_voc2012, "cityscapes": write_cityscapes}


@pytest.mark.parametrize("name", WRITERS)
def test_the_truth_itself_scores_one(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    dataset = open_dataset(name, tmp_path)
    assert isinstance(dataset, SegmentationDataset)
    score = SegmentationScore(len(dataset.categories))
    for sample in dataset.samples:
        _, truth = sample.load()
        score.add(truth, truth)
    result = score.result()
    assert (result.mean_iou, result.pixel_accuracy, result.images) == (1, 1, 2)


def test_background_is_scored_and_contours_are_not(tmp_path: Path) -> None:
    write_voc2012(tmp_path)
    dataset = open_dataset("voc2012", tmp_path)
    assert isinstance(dataset, SegmentationDataset)
    score = SegmentationScore(21)
    for sample in dataset.samples:
        score.add(np.zeros(VOC_IDS.shape, np.uint8), sample.load()[1])
    # Of the seven scored columns two are background; 1, 2, 15 and 20 occur and are never found.
    result = score.result()
    assert result.pixel_accuracy == pytest.approx(2 / 7)
    assert result.mean_iou == pytest.approx((2 / 7) / 5)


def scored(dataset: Any, seed: int) -> tuple[DepthResult, list[Any], list[Any]]:
    """The result of noisy predictions, with them and the pictures' truths."""
    assert isinstance(dataset, DepthDataset)
    score = DepthScore(dataset.minimum, dataset.maximum, dataset.region, dataset.cap)
    random, predictions, truths = np.random.default_rng(seed), [], []
    for sample in dataset.samples:
        pixels, truth = sample.load()
        assert pixels.shape[:2] == truth.shape
        noise = random.uniform(0.7, 1.4, truth.shape)
        predictions.append(np.clip(truth * noise + 0.01, 0, None).astype(np.float32))
        truths.append(truth)
        score.add(predictions[-1], truth)
    return score.result(), predictions, truths


def toolbox(predicted: Any, truth: Any, mask: Any) -> tuple[float, float, float]:
    """The Monocular Depth Estimation Toolbox's formulas over the pixels of a mask."""
    seen, true = predicted[mask].astype(float), truth[mask].astype(float)
    ratio = np.maximum(true / seen, seen / true)
    rmse = np.sqrt(((true - seen) ** 2).mean())
    return rmse, (np.abs(true - seen) / true).mean(), (ratio < 1.25).mean()


def means(rows: list[tuple[float, float, float]]) -> Any:
    return pytest.approx(tuple(np.mean(rows, axis=0)), rel=1e-6)


def test_nyu_is_scored_by_its_protocol(tmp_path: Path) -> None:
    stored = write_nyu(tmp_path)
    result, predictions, _ = scored(open_dataset("nyu", tmp_path), 0)
    truth = stored / 1000
    mask = np.zeros(truth.shape, bool)
    mask[45:471, 41:601] = True
    mask &= (stored > 1) & (stored < 10000)
    rows = [toolbox(np.clip(p, 0.001, 10), truth, mask) for p in predictions]
    assert (result.rmse, result.abs_rel, result.delta1) == means(rows)
    assert (result.images, result.skipped) == (2, 0)


def test_kitti_is_scored_by_its_protocol(tmp_path: Path) -> None:
    _, stored = write_kitti(tmp_path)
    result, (predicted,), _ = scored(open_dataset("kitti", tmp_path), 1)
    cropped = stored[375 - 352 :, 13 : 13 + 1216] / 256
    mask = np.zeros((352, 1216), bool)
    mask[int(0.40810811 * 352) : int(0.99189189 * 352), 43:1172] = True
    mask &= (cropped > 0.001) & (cropped < 80)
    assert 0 < mask.sum() < 206 * 1129
    rows = [toolbox(np.clip(predicted, 0.001, 80), cropped, mask)]
    assert (result.rmse, result.abs_rel, result.delta1) == means(rows)


def test_sun_rgbd_is_scored_by_its_protocol(tmp_path: Path) -> None:
    millimetres = ramp(SUN_SIZE, 12000)
    write_sun_rgbd(tmp_path, millimetres)
    result, (predicted,), _ = scored(open_dataset("sun_rgbd", tmp_path), 2)
    truth = np.minimum(millimetres / 1000, 8)
    mask = np.zeros(truth.shape, bool)
    mask[45:471, 41:601] = True
    mask &= truth > 0.001
    assert (truth[mask] == 8).any()
    rows = [toolbox(np.clip(predicted, 0.001, 8), truth, mask)]
    assert (result.rmse, result.abs_rel, result.delta1) == means(rows)


def test_imagenet_labels_are_what_is_scored(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    dataset = open_dataset("imagenet", tmp_path)
    score = ClassificationScore(2)
    for sample in dataset.samples:
        _, label = sample.load()
        assert isinstance(label, int)
        score.add(np.asarray([0, 1]), label)
    # One picture of n01, two of n02.
    assert score.result().top1 == pytest.approx(2 / 3)
