"""The course of a training: its seed, its learning rates, its steps, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fit_pictures import fitted, write_segmentation
from training_runs import SIZE, TASKS, pictures, same

from clsspec_export.fit import fitting, training
from clsspec_export.fit.examples import Examples
from clsspec_export.fit.objectives import objective
from clsspec_export.fit.standardize import Statistics, statistics
from clsspec_export.fit.training import Course, Settings
from clsspec_export.heads.own import write_own
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import DepthHead, Protocol, Source
from clsspec_serve.layers import Layer
from clsspec_serve.predictor import Model
from clsspec_serve.schema import Output


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_file(
    arithmetic: Model, tmp_path: Path, task: HeadTask
) -> None:
    root = pictures(task, tmp_path / "data")
    torch.manual_seed(1)
    one = fitted(arithmetic, task, root, tmp_path / "one", size=SIZE)
    torch.manual_seed(2)
    np.random.seed(3)  # what global state must not change
    other = fitted(arithmetic, task, root, tmp_path / "other", size=SIZE)
    write_own(one.head, tmp_path / "one.safetensors")
    write_own(other.head, tmp_path / "other.safetensors")
    content = (tmp_path / "one.safetensors").read_bytes()
    assert content == (tmp_path / "other.safetensors").read_bytes()
    assert not same(one, fitted(arithmetic, task, root, tmp_path / "one", size=SIZE, seed=1))


def test_no_global_random_state_is_touched(arithmetic: Model, tmp_path: Path) -> None:
    root = pictures("segment", tmp_path / "data")
    before = torch.random.get_rng_state()
    fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("task", TASKS)
def test_a_grid_of_rates_gives_each_the_head_that_it_has_alone(
    arithmetic: Model, tmp_path: Path, task: HeadTask
) -> None:
    root = pictures(task, tmp_path / "data")
    together = fitted(arithmetic, task, root, tmp_path / "c", size=SIZE, rates=(1e-3, 1e-2))
    alone = {
        rate: fitted(arithmetic, task, root, tmp_path / "c", size=SIZE, rates=(rate,))
        for rate in (1e-3, 1e-2)
    }
    assert together.figures == {rate: found.figure for rate, found in alone.items()}
    assert together.figure.rank == max(found.figure.rank for found in alone.values())
    assert same(together, alone[together.rate])


def test_a_rate_at_which_the_training_diverges_is_not_kept(
    arithmetic: Model, tmp_path: Path
) -> None:
    root = pictures("segment", tmp_path / "data")
    found = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, rates=(1e30, 1e-3))
    assert found.rate == 1e-3
    assert found.figures[1e30].text == "diverged"
    with pytest.raises(UsageError, match="diverged at all learning rates"):
        fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, rates=(1e30,))


def test_statistics_are_those_of_all_training_patches(
    arithmetic: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of different sizes: each patch counts, not each picture."""
    seen: list[Statistics] = []
    monkeypatch.setattr(
        fitting, "statistics", lambda examples: seen.append(statistics(examples)) or seen[0]
    )
    write_segmentation(tmp_path / "data", 3, size=(28, 42), block=14)
    write_segmentation(tmp_path / "more", 2, size=(28, 84), block=14, seed=4)
    for path in (tmp_path / "more").rglob("*.png"):
        path.rename(tmp_path / "data" / path.parent.name / f"more{path.name}")
    write_segmentation(tmp_path / "val", 1, size=SIZE, block=14, seed=5)
    fitted(
        arithmetic, "segment", tmp_path / "data", tmp_path / "c", size=SIZE, val=tmp_path / "val"
    )
    patches = [
        arithmetic(image, size=SIZE, policy="fit").patches.reshape(-1, 4)
        for image in sorted((tmp_path / "data" / "images").iterdir())
    ]
    assert len({len(each) for each in patches}) > 1
    every = np.concatenate(patches).astype(np.float64)
    np.testing.assert_allclose(seen[0].mean, every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(seen[0].variance, every.var(axis=0), rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rates": ()}, "learning rates none"),
        ({"rates": (1e-3, -1.0)}, "learning rates 0.001, -1"),
        ({"rates": (1e-3, 1e-3)}, "each once"),
        ({"epochs": 0}, "0 epochs"),
        ({"batch_size": 0}, "batches of 0"),
        ({"layers": (Layer(7, True),)}, "it has 1, 0, 0:raw .`clsspec export --layers` adds more."),
    ],
)
def test_settings_that_lead_nowhere_are_refused(
    arithmetic: Model, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    root = pictures("segment", tmp_path / "data")
    with pytest.raises(UsageError, match=words):
        fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, **changes)
    assert not (tmp_path / "cache").exists()


def test_the_last_step_is_smaller_than_the_first(arithmetic: Model, tmp_path: Path) -> None:
    """A cosine from the rate to nearly 0."""
    root = pictures("segment", tmp_path / "data")
    shares: list[float] = []
    step = training.Course._step

    class Watched(training.Course):
        def _step(self, batch: Any, heads: Any, share: float) -> None:
            shares.append(share)
            step(self, batch, heads, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "Course", Watched)
        fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, epochs=4)
    expected = (1 + np.cos(np.pi * np.arange(8) / 8)) / 2
    np.testing.assert_allclose(shares, expected)


class Given(Examples):
    """One picture of one patch."""

    def __init__(self, feature: float, depth: float) -> None:
        self._given = np.full((1, 1, 1), feature, np.float32), np.full((4, 4), depth, np.float32)

    def __len__(self) -> int:
        return 1

    def features(self, index: int) -> list[Any]:
        return [self._given[0]]

    def target(self, index: int) -> Any:
        return self._given[1]


def test_a_regression_finds_back_from_beyond_its_range() -> None:
    """There the head's clamp has no slope; the answer itself stays within the range."""
    description = DepthHead(
        inputs=(Output(name="patches", kind="patches", layer=0, norm=True),),
        protocol=Protocol(size=SIZE, policy="fit"),
        source=Source(name="tests", format="clsspec"),
        minimum=0.001,
        maximum=10,
        method="regression",
        bins=1,
        upsample=4,
    )
    settings = Settings(60, (0.5,), 1, 0)
    heads = training.runners(description, 1, settings, 30.0)
    examples = Given(1.0, 5.0)
    plain = Statistics(torch.zeros(1), torch.ones(1))
    course = Course(examples, examples, plain, objective(description))
    (before,) = course.figures(heads)
    assert before.rank == pytest.approx(-5, rel=1e-3)
    for epoch in range(60):
        course._epoch(epoch, heads, settings)
    (after,) = course.figures(heads)
    assert after.rank > -1
