"""Losses, and what they leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_frames import write_frames

from indoor_tiny.classes import CLASSES
from indoor_tiny.frames import open_shards
from indoor_tiny.training.loader import Batch
from indoor_tiny.training.network import Answers
from indoor_tiny.training.objectives import gradient_matching, losses, weights_by_frequency
from indoor_tiny.training.plan import Plan

COUNT = len(CLASSES)


def example() -> tuple[Answers, Batch]:
    """Perfect answers of one picture, and its labels; half of the depth is unknown."""
    classes = torch.randint(0, 9, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    depth = torch.rand((1, 8, 8), generator=torch.Generator().manual_seed(1)) + 1
    depth[:, :4] = 0
    share = torch.nn.functional.one_hot(classes, COUNT).float().mean(dim=(1, 2))
    answers = Answers(
        classes=50.0 * torch.nn.functional.one_hot(classes, COUNT).permute(0, 3, 1, 2).float(),
        log_depth=torch.where(depth > 0, depth, 7.0).log(),
        room=50.0 * torch.eye(6)[2:3],
        presence=100.0 * ((share > 0).float() - 0.5),
        share=share.clamp(min=1e-20).log(),
    )
    batch = Batch(torch.zeros(1), classes.to(torch.uint8), depth, torch.tensor([2]))
    return answers, batch


def test_perfect_answers_lose_nothing_whatever_is_said_where_no_depth_is_known() -> None:
    parts = losses(*example(), Plan(), torch.ones(COUNT))
    assert all(float(part) < 1e-5 for part in parts.values())


@pytest.mark.parametrize("name", ["classes", "log_depth", "room", "presence", "share"])
def test_every_answer_counts(name: str) -> None:
    answers, batch = example()
    wrong = replace(answers, **{name: getattr(answers, name).roll(1, dims=1)})
    parts = losses(wrong, batch, Plan(), torch.ones(COUNT))
    assert sum(parts.values()) > 0.05


def test_a_wrong_scale_leaves_the_gradients_right() -> None:
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    assert gradient_matching(torch.full((1, 8, 8), 0.7), valid) == 0
    slope = torch.arange(8.0).expand(1, 8, 8)
    assert gradient_matching(slope, valid) == 1 + 2 + 4


def test_depth_that_is_nowhere_known_loses_nothing() -> None:
    answers, batch = example()
    parts = losses(answers, replace(batch, depth=torch.zeros(1, 8, 8)), Plan(), torch.ones(COUNT))
    assert parts["depth"] == parts["gradient"] == 0


def test_rare_classes_weigh_more_and_a_cell_weighs_one_on_average(tmp_path: Path) -> None:
    shards = open_shards(write_frames(tmp_path, 2, 0))
    shards[0].classes.setflags(write=False)
    weights = weights_by_frequency(shards, 0.5)
    counts = torch.bincount(torch.tensor(shards[0].classes.ravel().copy()), minlength=COUNT) + 1
    assert weights[counts.argmin()] == weights.max()
    torch.testing.assert_close((weights * counts).sum() / counts.sum(), torch.tensor(1.0))
    assert torch.equal(weights_by_frequency(shards, 0.0), torch.ones(COUNT))
