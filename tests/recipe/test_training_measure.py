"""Figures of answers that can be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from indoor_tiny.frames import Frames
from indoor_tiny.training.baselines import count_baselines
from indoor_tiny.training.measure import (
    measure_constant,
    measure_network,
    measure_position,
)
from indoor_tiny.training.network import new_network
from indoor_tiny.training.plan import Plan

UNKNOWN = 0


def frames(classes: list[list[int]], metres: list[list[float]], rooms: list[int]) -> Frames:
    """Frames of 8 x 8 pixels from their left and their right half's class and depth."""
    count = len(rooms)
    halves = np.array(classes, np.uint8), np.array(metres, np.float32) * 1000
    wide = [np.repeat(np.repeat(half[:, None], 8, axis=1), 4, axis=2) for half in halves]
    return Frames(
        images=np.zeros((count, 8, 8, 3), np.uint8),
        classes=wide[0].astype(np.uint8),
        depth=np.rint(wide[1]).astype(np.uint16),
        rooms=np.array(rooms, np.uint8),
    )


TRAINING = [
    frames([[0, 1], [0, 1]], [[1, 4], [1, 4]], [3, 3]),
    frames([[0, 0]], [[4, UNKNOWN]], [1]),
]
HELD_OUT = [frames([[0, 1], [2, 1]], [[1, 4], [2, UNKNOWN]], [3, 1])]
WIDTH_OF_A_BIN = 0.011


def test_baselines_are_those_of_the_training_frames() -> None:
    found = count_baselines(TRAINING)
    assert (found.frames, found.common_class, found.common_room) == (3, 0, 3)
    np.testing.assert_array_equal(found.class_at, [[0, 1], [0, 1]])
    # Weighed by 1 / depth: at 1 m 2 frames, at 4 m 3 frames / 4.
    assert found.median == pytest.approx(1, rel=WIDTH_OF_A_BIN)
    np.testing.assert_allclose(found.median_at, [[1, 4], [1, 4]], rtol=WIDTH_OF_A_BIN)
    assert found.mean == pytest.approx((1 + 1 + 4 + 4 + 4) / 5)
    np.testing.assert_allclose(found.mean_at, [[2, 4], [2, 4]])


def test_fewer_frames_are_counted_on_demand() -> None:
    assert count_baselines(TRAINING, most=2).frames == 2


def test_figures_of_one_answer_for_everything() -> None:
    figures = measure_constant(count_baselines(TRAINING), HELD_OUT)
    # Everything is class 0, which a quarter of the pixels is; classes 1 and 2 are never found.
    assert figures["mean_iou"] == pytest.approx(0.25 / 3)
    assert figures["pixel_accuracy"] == pytest.approx(0.25)
    # 1 m for 1 and 4 m, then 1 m for 2 m.
    assert figures["abs_rel"] == pytest.approx((0.75 / 2 + 0.5) / 2, abs=0.01)
    # 2.8 m for 1 and 4 m, then 2.8 m for 2 m.
    first = np.sqrt((1.8**2 + 1.2**2) / 2)
    assert figures["rmse"] == pytest.approx((first + 0.8) / 2, rel=1e-5)
    assert figures["room_accuracy"] == 0.5


def test_figures_of_one_answer_for_every_position() -> None:
    figures = measure_position(count_baselines(TRAINING), HELD_OUT)
    # Class 0 has half of its union, class 1 all, class 2 nothing.
    assert figures["mean_iou"] == pytest.approx(0.5)
    assert figures["pixel_accuracy"] == pytest.approx(0.75)
    assert figures["abs_rel"] == pytest.approx((0 + 0.5) / 2, abs=0.01)
    assert figures["rmse"] == pytest.approx((np.sqrt(1 / 2) + 0) / 2, rel=1e-5)


def test_a_network_is_scored_by_what_its_decoders_say() -> None:
    network = new_network(Plan(side=32, last_side=32)).eval()
    with torch.no_grad():
        for decoder in (network.classes, network.depth, network.room):
            decoder.weight.zero_()
        network.classes.bias[16:32] = 5
        network.depth.bias.fill_(float(np.log(2)))
        network.room.bias[1] = 5
    figures = measure_network(network, HELD_OUT, side=32)
    assert figures["pixel_accuracy"] == pytest.approx(0.5)
    assert figures["abs_rel"] == pytest.approx(((1 + 0.5) / 2 + 0) / 2, rel=1e-5)
    assert figures["room_accuracy"] == 0.5
    assert measure_network(network, HELD_OUT, side=32, stride=2)["room_accuracy"] == 0
