"""Plans: read from a table, and refused with a reason."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from clsspec_serve.errors import UsageError
from indoor_tiny.training.plan import Plan, read_plan


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_the_table_leaves_out_is_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, "[other]\nx = 1\n[training]\nsteps = 7\nrate = 1\nspecialized = false")
    assert read_plan(path) == Plan(steps=7, rate=1.0, specialized=False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("stops = 7", "does not know stops"),
        ("steps = 7.5", "steps is 7.5"),
        ("specialized = 1", "specialized is 1"),
        ("side = 150", "multiples of the patch"),
        ("batch = 0", "batch is 0"),
    ],
)
def test_a_wrong_line_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_plan(written(tmp_path, f"[training]\n{line}"))


def test_the_last_steps_have_their_own_side_and_batch() -> None:
    plan = Plan(steps=10, batch=8, last_batch=2, last_share=0.3, side=64, last_side=96)
    assert [plan.side_at(step) for step in (0, 6, 7, 9)] == [64, 64, 96, 96]
    shown = [plan.shown_before(step) for step in range(11)]
    assert [later - now for now, later in pairwise(shown)] == [
        plan.batch_at(step) for step in range(10)
    ]
