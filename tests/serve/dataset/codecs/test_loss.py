"""What a codec loses, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from clsspec_serve.dataset.codecs.calibration import Calibration, MapLoss
from clsspec_serve.dataset.codecs.loss import MapLosses, answer_loss


def test_nothing_is_lost_of_equal_maps() -> None:
    losses = MapLosses()
    losses.add(np.ones((1, 1, 2)), np.ones((1, 1, 2)))
    losses.add(np.zeros((1, 1, 2)), np.zeros((1, 1, 2)))
    found = losses.loss()
    assert (found.variance, found.cosine, found.relative) == pytest.approx((1, 1, 0))


def test_losses_add_up_over_patches_of_all_maps() -> None:
    losses = MapLosses()
    losses.add(np.array([[[3.0, 4.0]]]), np.array([[[3.0, 0.0]]]))
    losses.add(np.array([[[-3.0, 4.0]]]), np.array([[[-3.0, 4.0]]]))
    found = losses.loss()
    assert found.cosine == pytest.approx((3 / 5 + 1) / 2)
    assert found.relative == pytest.approx(np.sqrt(16 / 50))
    # The mean is (0, 4), so that both patches are 3 from it.
    assert found.variance == pytest.approx(1 - 16 / 18)


def test_masks_lose_pixels_of_those_that_were_seen() -> None:
    before = np.array([[0, 1], [2, 255]], np.uint8)
    assert answer_loss("segment", before, np.array([[0, 2], [1, 255]], np.uint8)) == 2 / 3
    assert answer_loss("segment", before[1:, 1:], before[1:, 1:]) is None


def test_depth_loses_a_share_of_itself() -> None:
    before = np.array([[2.0, 4.0], [np.nan, 0.0]], np.float32)
    after = np.array([[1.0, 5.0], [np.nan, 3.0]], np.float32)
    assert answer_loss("depth", before, after) == pytest.approx((0.5 + 0.25) / 2)
    assert answer_loss("depth", before[1:], after[1:]) is None


def test_a_class_is_kept_or_lost() -> None:
    assert answer_loss("classify", np.array([1.0, 2.0]), np.array([3.0, 4.0])) == 0
    assert answer_loss("classify", np.array([1.0, 2.0]), np.array([3.0, 1.0])) == 1


def test_patches_that_do_not_vary_have_no_variance_to_lose() -> None:
    losses = MapLosses()
    for _ in range(3):
        losses.add(np.full((7, 1, 2), 0.1), np.full((7, 1, 2), 0.101))
    found = losses.loss()
    assert found.variance is None
    assert found.relative == pytest.approx(0.01)


def test_a_patch_that_is_lost_as_a_whole_has_lost_its_direction() -> None:
    losses = MapLosses()
    losses.add(np.array([[[3.0, 4.0]]]), np.zeros((1, 1, 2)))
    assert (losses.loss().cosine, losses.loss().relative) == (0, 1)


@pytest.mark.parametrize(
    ("variance", "words"),
    [
        (0.99998, "lose 0.002 % of their variance, cosine 0.900000"),
        (0.5, "lose 50 % of their variance, cosine 0.900000"),
        (-0.7, "lose 170 % of their variance, cosine 0.900000"),
        (None, "do not vary, cosine 0.900000"),
    ],
)
def test_losses_are_said_in_words(variance: float | None, words: str) -> None:
    loss = MapLoss(variance=variance, cosine=0.9, relative=0.1)
    answers = {"segment": 1.0, "depth": 0.00123}
    found = Calibration(pictures=1, maps={"patches": loss}, answers=answers, files={})
    assert found.words() == (
        f"patches {words}; segment: 100 % of the pixels get another class; depth: 0.12 % off; "
        "on 1 picture"
    )


def test_a_loss_is_a_number() -> None:
    with pytest.raises(ValidationError):
        MapLoss(variance=float("nan"), cosine=0.9, relative=0.1)
