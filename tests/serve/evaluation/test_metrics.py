from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.classification_score import ClassificationScore
from clsspec_serve.evaluation.datasets.windows import eigen, garg
from clsspec_serve.evaluation.depth_score import DepthScore
from clsspec_serve.evaluation.segmentation_score import SegmentationScore


def ids(rows: Any) -> Any:
    return np.asarray(rows, np.uint8)


def metres(rows: Any) -> Any:
    return np.asarray(rows, np.float32)


def test_miou_is_worked_out_from_the_pixels() -> None:
    score = SegmentationScore(4)
    score.add(ids([[0, 0, 1], [1, 1, 2]]), ids([[0, 1, 1], [1, 255, 0]]))
    # Scored are five pixels: (truth, prediction) = (0,0) (1,0) (1,1) (1,1) (0,2).
    # Class 0: 1 in common, 2 true and 2 predicted, so a union of 3. Class 1: 2 of 3.
    # Class 2: 0 of 1, since it is predicted once. Class 3 occurs nowhere.
    result = score.result()
    assert result.iou[:3] == pytest.approx((1 / 3, 2 / 3, 0))
    assert math.isnan(result.iou[3])
    assert result.mean_iou == pytest.approx((1 / 3 + 2 / 3 + 0) / 3)
    assert result.pixel_accuracy == pytest.approx(3 / 5)
    # Of class 0 one of two pixels is found, of class 1 two of three; class 2 is never true.
    assert result.mean_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (result.images, result.pixels) == (1, 5)


def test_intersections_and_unions_are_summed_before_they_are_divided() -> None:
    score = SegmentationScore(2)
    score.add(ids([[0, 0, 0, 0]]), ids([[0, 0, 0, 0]]))
    score.add(ids([[1, 1, 1, 1]]), ids([[0, 1, 1, 1]]))
    # Class 0: 4 of 5. Class 1: 3 of 4. Image by image it would be 1 and (0 + 3 / 4) / 2.
    assert score.result().mean_iou == pytest.approx((4 / 5 + 3 / 4) / 2)


def test_segmentation_agrees_with_a_histogram_of_areas() -> None:
    random = np.random.default_rng(0)
    score = SegmentationScore(150)
    areas = torch.zeros(3, 150, dtype=torch.float64)
    for _ in range(3):
        truth = random.integers(0, 120, (40, 50)).astype(np.uint8)
        predicted = np.where(
            random.random((40, 50)) < 0.6, truth, random.integers(0, 130, (40, 50))
        )
        truth[random.random((40, 50)) < 0.1] = 255
        score.add(predicted, truth)
        kept = torch.from_numpy(truth != 255)
        true, seen = (torch.from_numpy(a.astype(float))[kept] for a in (truth, predicted))
        for row, values in enumerate((seen[seen == true], seen, true)):
            areas[row] += torch.histc(values, 150, 0, 149)
    common, predicted_area, true_area = areas
    result = score.result()
    iou = common / (predicted_area + true_area - common)
    np.testing.assert_allclose(result.iou, iou.numpy(), rtol=1e-12)
    assert result.mean_iou == pytest.approx(float(iou.nanmean()), rel=1e-12)
    assert result.mean_accuracy == pytest.approx(float((common / true_area).nanmean()), rel=1e-12)
    assert result.pixel_accuracy == pytest.approx(float(common.sum() / true_area.sum()), rel=1e-12)


def test_a_prediction_of_no_class_is_no_matter_where_nothing_is_scored() -> None:
    score = SegmentationScore(2)
    score.add(np.asarray([[0, 99]]), ids([[0, 255]]))
    assert score.result().pixels == 1


@pytest.mark.parametrize(
    ("predicted", "truth", "error", "line"),
    [
        (
            [[0, 1]],
            [[0, 7]],
            DatasetError,
            "truth has the id 7 at (0, 1); accepted are 0..1 and 255",
        ),
        ([[0, 2]], [[0, 1]], UsageError, "prediction has the id 2 at (0, 1); accepted are 0..1"),
        ([[0], [1]], [[0, 1]], UsageError, "accepted are integers of one shape"),
    ],
)
def test_ids_that_do_not_fit_are_one_line(
    predicted: Any, truth: Any, error: type[Exception], line: str
) -> None:
    with pytest.raises(error) as caught:
        SegmentationScore(2).add(ids(predicted), ids(truth))
    assert line in str(caught.value)


def test_a_negative_truth_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"id -1 at \(0, 0\)"):
        SegmentationScore(2).add(ids([[0]]), np.asarray([[-1]]))


def test_floats_are_no_ids() -> None:
    with pytest.raises(UsageError, match="float32"):
        SegmentationScore(2).add(metres([[0]]), ids([[0]]))


def test_the_ignored_id_is_not_a_class() -> None:
    with pytest.raises(UsageError, match="256 classes, 255 ignored"):
        SegmentationScore(256)


def test_nothing_scored_is_an_error_and_no_nan() -> None:
    score = SegmentationScore(2)
    score.add(ids([[0]]), ids([[255]]))
    with pytest.raises(DatasetError, match="no pixel of 1 images has a class"):
        score.result()


def test_depth_scores_are_worked_out_from_the_pixels() -> None:
    score = DepthScore(0.001, 10)
    score.add(metres([[1, 2, 5, 3, 9]]), metres([[2, 2, 4, 0, 12]]))
    # Three pixels count: 0 was not measured and 12 is beyond 10. Errors 1, 0, 1 of 2, 2, 4 m.
    # Ratios 2, 1, 1.25, the last of which is not below 1.25.
    result = score.result()
    assert result.rmse == pytest.approx(math.sqrt(2 / 3))
    assert result.abs_rel == pytest.approx((1 / 2 + 0 + 1 / 4) / 3)
    assert result.delta1 == pytest.approx(1 / 3)
    assert (result.images, result.skipped) == (1, 0)


def test_depth_scores_are_means_over_images_and_not_over_pixels() -> None:
    score = DepthScore(0.001, 10)
    score.add(metres([[3, 3, 3, 3]]), metres([[2, 2, 2, 2]]))
    score.add(metres([[7, 1, 1, 1]]), metres([[4, 0, 0, 0]]))
    score.add(metres([[2, 2, 2, 2]]), metres([[2, 2, 2, 2]]))
    # 1 m in four pixels, 3 m in one, nothing in four.
    result = score.result()
    assert result.rmse == pytest.approx((1 + 3 + 0) / 3)
    assert result.abs_rel == pytest.approx((1 / 2 + 3 / 4 + 0) / 3)
    assert result.delta1 == pytest.approx((0 + 0 + 1) / 3)


def test_images_without_a_measured_depth_are_counted_and_left_out() -> None:
    score = DepthScore(0.001, 10)
    score.add(metres([[3]]), metres([[2]]))
    score.add(metres([[3, 3]]), metres([[0, math.nan]]))
    result = score.result()
    assert (result.rmse, result.images, result.skipped) == (1, 1, 1)


def test_no_measured_depth_at_all_is_an_error() -> None:
    score = DepthScore(0.001, 10)
    score.add(metres([[3]]), metres([[0]]))
    with pytest.raises(
        DatasetError, match=r"no pixel of 1 images has a depth between 0.001 and 10"
    ):
        score.result()


def test_the_limits_themselves_do_not_count() -> None:
    score = DepthScore(0.001, 10)
    stored = np.asarray([[1, 10000, 5000]], np.uint16)
    score.add(metres([[9, 1, 6]]), stored.astype(np.float32) / np.float32(1000))
    # 0.001 as float32 is above 0.001 as double: it must not slip in.
    assert score.result().rmse == 1


def test_a_ratio_of_exactly_a_factor_does_not_pass_by_a_rounding() -> None:
    score = DepthScore(0.001, 10)
    score.add(metres([[8, 4]]), np.asarray([[6400, 3201]], np.float32) / np.float32(1000))
    # 8 / 6.4 is 1.25; as float32, 6.4 is a little more. 4 / 3.201 is below 1.25.
    assert score.result().delta1 == 1 / 2


def test_predictions_are_clamped_to_the_range() -> None:
    score = DepthScore(0.5, 10)
    score.add(metres([[-3, 50]]), metres([[1, 9]]))
    # 0.5 for 1 m, 10 for 9 m.
    assert score.result().rmse == pytest.approx(math.sqrt((0.25 + 1) / 2))
    assert score.result().abs_rel == pytest.approx((0.5 + 1 / 9) / 2)


def test_with_a_cap_truth_and_prediction_beyond_it_are_the_cap() -> None:
    score = DepthScore(0.001, 10, cap=8)
    score.add(metres([[9.5, 7]]), metres([[20, 8.5]]))
    # Both truths become 8, which is within the range and counts; the predictions become 8 and 7.
    assert score.result().rmse == pytest.approx(math.sqrt(1 / 2))


def test_only_the_region_counts() -> None:
    truth = np.full((480, 640), 2, np.float32)
    predicted = np.full((480, 640), 9, np.float32)
    predicted[45:471, 41:601] = 3
    score = DepthScore(0.001, 10, eigen)
    score.add(predicted, truth)
    assert score.result().rmse == 1


def test_the_region_of_kitti_is_that_of_garg() -> None:
    # int(.40810811 * 352), int(.99189189 * 352), int(.03594771 * 1216), int(.96405229 * 1216)
    assert garg((352, 1216)) == (slice(143, 349), slice(43, 1172))


def test_depth_agrees_with_a_loop_over_pixels() -> None:
    random = np.random.default_rng(1)
    score = DepthScore(0.001, 80, garg)
    rows = []
    for _ in range(2):
        truth = random.uniform(-5, 90, (50, 60)).astype(np.float32)
        predicted = (truth * random.uniform(0.5, 2, truth.shape)).astype(np.float32)
        score.add(predicted, truth)
        squares, relative, close = [], [], []
        for row in range(int(0.40810811 * 50), int(0.99189189 * 50)):
            for column in range(int(0.03594771 * 60), int(0.96405229 * 60)):
                true, seen = float(truth[row, column]), float(predicted[row, column])
                if 0.001 < true < 80:
                    seen = min(max(seen, 0.001), 80)
                    squares.append((true - seen) ** 2)
                    relative.append(abs(true - seen) / true)
                    close.append(max(true / seen, seen / true) < 1.25)
        count = len(squares)
        rows.append((math.sqrt(sum(squares) / count), sum(relative) / count, sum(close) / count))
    result = score.result()
    expected = np.mean(rows, axis=0)
    assert (result.rmse, result.abs_rel, result.delta1) == pytest.approx(tuple(expected), rel=1e-12)


def test_a_prediction_with_nan_is_refused_where_it_counts() -> None:
    score = DepthScore(0.001, 10)
    score.add(metres([[math.nan, 1]]), metres([[0, 1]]))
    with pytest.raises(UsageError, match="the prediction has NaN"):
        score.add(metres([[math.nan]]), metres([[1]]))


def test_depths_of_another_shape_are_refused() -> None:
    with pytest.raises(UsageError, match=r"the prediction is \(1, 2\), the truth \(2, 1\)"):
        DepthScore(0.001, 10).add(metres([[1, 1]]), metres([[1], [1]]))


@pytest.mark.parametrize(("low", "high", "cap"), [(0, 10, None), (5, 5, None), (1, 10, 11)])
def test_an_empty_range_of_depths_is_refused(low: float, high: float, cap: float | None) -> None:
    with pytest.raises(UsageError, match=f"depths from {low} to {high} m"):
        DepthScore(low, high, cap=cap)


def test_accuracy_counts_the_first_and_the_first_five() -> None:
    score = ClassificationScore(7)
    logits = np.asarray([9, 8, 7, 6, 5, 4, 3], np.float32)
    for label in (0, 0, 1, 4, 5):
        score.add(logits, label)
    # First twice; among the first five also as 1 and 4, not as 5.
    result = score.result()
    assert (result.top1, result.top5, result.images) == (2 / 5, 4 / 5, 5)


def test_many_images_at_once_count_as_one_by_one() -> None:
    random = np.random.default_rng(2)
    logits, labels = random.normal(size=(40, 9)), random.integers(0, 9, 40)
    together, apart = ClassificationScore(9), ClassificationScore(9)
    together.add(logits, labels)
    for row, label in zip(logits, labels, strict=True):
        apart.add(row, int(label))
    assert together.result() == apart.result()
    best = torch.from_numpy(logits).topk(5).indices.numpy()
    assert together.result().top1 == np.mean(best[:, 0] == labels)
    assert together.result().top5 == np.mean((best == labels[:, None]).any(axis=1))


def test_of_equal_scores_the_lower_id_comes_first() -> None:
    score = ClassificationScore(6)
    score.add(np.zeros(6), 0)
    score.add(np.zeros(6), 5)
    assert (score.result().top1, score.result().top5) == (1 / 2, 1 / 2)


def test_top_five_of_five_classes_says_nothing() -> None:
    score = ClassificationScore(5)
    score.add(np.arange(5.0), 4)
    assert score.result().top5 is None


@pytest.mark.parametrize("scores", [np.zeros(3), np.asarray([0, math.nan])])
def test_scores_that_do_not_fit_are_refused(scores: Any) -> None:
    with pytest.raises(UsageError, match=r"accepted are \(1, 2\) numbers"):
        ClassificationScore(2).add(scores, 0)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    with pytest.raises(DatasetError, match=rf"a label is {label}; accepted are 0\.\.1"):
        ClassificationScore(2).add(np.zeros(2), label)


def test_no_image_at_all_is_an_error() -> None:
    with pytest.raises(DatasetError, match="no image was classified"):
        ClassificationScore(2).result()


def test_a_single_class_is_nothing_to_score() -> None:
    with pytest.raises(UsageError, match="1 classes; accepted are 2 and more"):
        ClassificationScore(1)
