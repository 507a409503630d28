"""Our own head files that are broken, or that are given options they have no use for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import head_files as files
import pytest
import torch
from head_files import WIDTH, State
from head_reading import read, refusal
from safetensors.torch import load_file, save_file

from clsspec_export.heads.own import METADATA_KEY, write_own
from clsspec_serve.errors import CheckpointError, UsageError
from clsspec_serve.layers import parse_layers


def own(path: Path) -> None:
    """Our own file of a head of five classes over the patches of the last layer."""
    torch.save(files.linear(5, WIDTH), path.with_suffix(".pth"))
    write_own(read("segment", path.with_suffix(".pth")), path)


Edit = Callable[[dict[str, Any], State], object]


def edited(path: Path, edit: Edit) -> Path:
    """Our own file with another description or other tensors."""
    own(path)
    tensors = load_file(path)
    from clsspec_export.checkpoints.files import read_safetensors

    description = json.loads(read_safetensors(path)[1][METADATA_KEY])
    edit(description, tensors)
    save_file(tensors, path, {METADATA_KEY: json.dumps(description)})
    return path


OUTPUT = {"name": "cls", "kind": "cls", "layer": 11, "norm": True}
OWN: dict[str, tuple[Edit, str]] = {
    "a field that is missing": (
        lambda d, t: d.pop("protocol"),
        "its description, segment.protocol",
    ),
    "another task": (lambda d, t: d.update(task="sing"), "its description, "),
    "a field that nobody knows": (lambda d, t: d.update(mood=1), "its description, segment.mood"),
    "no inputs": (lambda d, t: d.update(inputs=[]), "its description, segment.inputs"),
    "fewer classes than rows": (
        lambda d, t: d["classes"].pop(),
        "does not fit the backbone: weight (5, 24), bias (5,); expected (4, 24) and (4,) for ",
    ),
    "a layer that the backbone does not have": (
        lambda d, t: d["inputs"][0].update(layer=12),
        "does not fit the backbone: layer 12 does not exist; accepted are 0 to 11",
    ),
    "no patches": (
        lambda d, t: d.update(inputs=[OUTPUT]),
        "takes cls; accepted are inputs that differ, with patches among them",
    ),
    "an input twice": (
        lambda d, t: d.update(inputs=2 * d["inputs"]),
        "takes patches + patches; accepted are inputs that differ",
    ),
    "another tensor": (
        lambda d, t: t.update(scale=torch.ones(1)),
        "holds bias, scale, weight; a head of ours holds weight and bias",
    ),
    "not a number": (
        lambda d, t: t["bias"].fill_(torch.nan),
        "its bias is not made of finite numbers",
    ),
    "integers": (
        lambda d, t: t.update(bias=torch.ones(5, dtype=torch.int32)),
        "its bias is not made of finite numbers",
    ),
}


@pytest.mark.parametrize(("edit", "message"), OWN.values(), ids=OWN)
def test_a_broken_file_of_our_own_is_refused(edit: Edit, message: str, tmp_path: Path) -> None:
    path = edited(tmp_path / "own.safetensors", edit)
    found = refusal("segment", path, CheckpointError)
    assert found.startswith(str(path))
    assert message in found


def test_a_description_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(files.linear(5, WIDTH), path, {METADATA_KEY: "{"})
    assert "its description, " in refusal("segment", path, CheckpointError)


def test_our_own_file_says_its_task(tmp_path: Path) -> None:
    own(tmp_path / "own.safetensors")
    message = refusal("depth", tmp_path / "own.safetensors", CheckpointError, maximum=None)
    assert re.search(r"own.safetensors is a head for segment, not for depth$", message)


@pytest.mark.parametrize(
    ("part", "options"),
    [("#x", {}), ("", {"maximum": 10.0}), ("", {"layers": parse_layers("3")})],
)
def test_options_that_our_own_file_has_no_use_for_are_refused(
    part: str, options: dict[str, Any], tmp_path: Path
) -> None:
    own(tmp_path / "own.safetensors")
    path = Path(f"{tmp_path / 'own.safetensors'}{part}")
    message = refusal("segment", path, UsageError, **options)
    assert "says itself what it takes and gives" in message


def test_a_damaged_safetensors_file_is_refused(tmp_path: Path) -> None:
    own(tmp_path / "own.safetensors")
    content = (tmp_path / "own.safetensors").read_bytes()
    (tmp_path / "own.safetensors").write_bytes(content[:-8])
    message = refusal("segment", tmp_path / "own.safetensors", CheckpointError)
    assert "own.safetensors is not a readable safetensors file" in message
