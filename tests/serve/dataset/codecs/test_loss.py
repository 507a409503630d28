"""What a codec loses, by hand."""

from __future__ import annotations

import numpy as np
import pytest

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
