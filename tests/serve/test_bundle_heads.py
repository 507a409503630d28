from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import pytest
from bundle_changes import assert_file_is_needed, change, refusal

from clsspec_serve.bundle import open_bundle

SEGMENT = by_hand.nearest_colour_head({"red": (255, 0, 0), "green": (0, 255, 0)})
DEPTH = by_hand.depth_head([0.01, 0, 0, 0])
CLASSIFY = by_hand.classify_head(["dark", "light"], np.ones((4, 2)), [1, 0])


@pytest.fixture
def with_heads(tmp_path: Path) -> Path:
    return by_hand.write_head_bundle(tmp_path / "heads", [SEGMENT, DEPTH, CLASSIFY])


def test_heads_are_found_in_their_files(with_heads: Path) -> None:
    bundle = open_bundle(with_heads)
    described = [head.description for head in (SEGMENT, DEPTH, CLASSIFY)]
    assert list(bundle.manifest.heads) == described
    for head in (SEGMENT, DEPTH, CLASSIFY):
        assert bundle.head(head.description.task).read_bytes() == head.graph


def test_two_heads_for_one_task_are_refused(with_heads: Path) -> None:
    change(with_heads, lambda manifest: manifest["heads"].append(manifest["heads"][1]))
    assert refusal(with_heads).endswith("Value error, two heads answer depth")


@pytest.mark.parametrize(
    "changed", [{"name": "patches_7", "layer": 7}, {"norm": False}, {"kind": "cls"}]
)
def test_a_head_must_take_what_the_backbone_gives(
    with_heads: Path, changed: dict[str, Any]
) -> None:
    change(with_heads, lambda manifest: manifest["heads"][0]["inputs"][0].update(changed))
    name = changed.get("name", "patches")
    expected = f"Value error, the head for segment takes {name}, which is no output"
    assert refusal(with_heads).endswith(expected)


@pytest.mark.parametrize(
    ("index", "edit", "field"),
    [
        (0, lambda head: head.update(task="paint"), "heads.0"),
        (0, lambda head: head.pop("classes"), "heads.0.segment.classes"),
        (0, lambda head: head.update(classes=[]), "heads.0.segment.classes"),
        (0, lambda head: head["protocol"].pop("stride", head["protocol"].update(window=9)), None),
        (1, lambda head: head.update(minimum=11), "heads.1.depth"),
        (1, lambda head: head.update(bins=3), "heads.1.depth"),
        (2, lambda head: head.update(novelty=1), "heads.2.classify.novelty"),
    ],
)
def test_a_wrong_field_of_a_head_is_named(
    with_heads: Path, index: int, edit: Callable[[Any], object], field: str | None
) -> None:
    change(with_heads, lambda manifest: edit(manifest["heads"][index]))
    assert f"clsspec.json, field {field or 'heads.0.segment.protocol'}: " in refusal(with_heads)


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_a_heads_file_must_be_there_and_listed_and_its_own(with_heads: Path, task: str) -> None:
    assert_file_is_needed(with_heads, f"heads/{task}.onnx")
