"""Trainings that go on from a checkpoint, and those that start over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fit_pictures import fitted
from training_runs import SIZE, TASKS, pictures, same

from clsspec_export.fit.fitting import Fitted
from clsspec_export.fit.training import Course
from clsspec_serve.choices import HeadTask
from clsspec_serve.predictor import Model


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("steps", [1, 3, 5, 7])
def test_an_interrupted_training_ends_in_the_same_bits(
    arithmetic: Model,
    tmp_path: Path,
    task: HeadTask,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = pictures(task, tmp_path / "data", 4 if task == "classify" else 8)

    def train(storage: str) -> Fitted:
        return fitted(
            arithmetic, task, root, tmp_path / storage, size=SIZE, rates=(1e-2, 0.1), epochs=4
        )

    whole = train("whole")
    taken = 0
    step = Course._step

    def counted(*arguments: Any) -> None:
        nonlocal taken
        if taken == steps:
            raise Interrupted
        taken += 1
        step(*arguments)

    monkeypatch.setattr(Course, "_step", counted)
    with pytest.raises(Interrupted):
        train("broken")
    before, taken, steps = taken, 0, 1000
    resumed = train("broken")
    assert same(whole, resumed)
    assert whole.figures == resumed.figures
    every = 4 * (3 if task == "classify" else 2)
    epoch = every // 4
    assert taken == every - before // epoch * epoch


def test_a_finished_training_leaves_its_checkpoint_until_the_head_is_safe(
    arithmetic: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures("segment", tmp_path / "data")
    first = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    with monkeypatch.context() as patch:
        patch.delattr(Course, "_step")
        again = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    assert same(first, again)
    again.checkpoint.remove()
    assert not list((tmp_path / "cache" / "runs").iterdir())


def test_other_settings_do_not_go_on_from_the_checkpoint(arithmetic: Model, tmp_path: Path) -> None:
    root = pictures("segment", tmp_path / "data")
    fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, epochs=2)
    found = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, epochs=3)
    fresh = fitted(arithmetic, "segment", root, tmp_path / "fresh", size=SIZE, epochs=3)
    assert same(found, fresh)


@pytest.mark.parametrize("damage", ["shorter", "empty", "altered", "not ours"])
def test_a_damaged_checkpoint_counts_as_none(
    arithmetic: Model, tmp_path: Path, damage: str
) -> None:
    root = pictures("segment", tmp_path / "data")
    first = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE)
    (path,) = (tmp_path / "cache" / "runs").iterdir()
    content = bytearray(path.read_bytes())
    if damage == "shorter":
        content = content[:-7]
    elif damage == "empty":
        content = bytearray()
    elif damage == "altered":
        content[len(content) // 2] ^= 1
    else:
        content = bytearray(b"no checkpoint")
    path.write_bytes(content)
    said: list[str] = []
    again = fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, report=said.append)
    assert f"{path} is damaged; the training starts over" in said
    assert same(first, again)
    said.clear()
    fitted(arithmetic, "segment", root, tmp_path / "cache", size=SIZE, report=said.append)
    assert not any("damaged" in line for line in said)
