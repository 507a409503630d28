"""`clsspec extract` of what heads answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import pytest
from command_line import Clsspec, pixels_of, save_picture, tree
from safetensors.numpy import load_file

from clsspec_serve import load, loading
from clsspec_serve.heads import Protocol

SLIDING = Protocol(size=(28, 28), policy="short", window=28, stride=14)
ALL = "cls,patches,segment,depth,classify"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    heads = [
        by_hand.nearest_colour_head({"dark": (90, 90, 120), "light": (150, 150, 130)}, SLIDING),
        by_hand.depth_head([0.01, 0.02, 0, 0]),
        by_hand.classify_head(["a", "b", "c"], np.eye(4)[:, :3], [0, 1, 2]),
    ]
    return by_hand.write_head_bundle(tmp_path / "bundle", heads)


def alone(bundle: Path, photo: Path) -> dict[str, Any]:
    return {task: load(bundle)(photo, tasks=(task,)).arrays[task] for task in ALL.split(",")}


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_all_tasks_go_into_one_file(clsspec: Clsspec, bundle: Path, photo: Path, form: str) -> None:
    out = photo.parent / f"out.{form}"
    assert clsspec("extract", photo, "-m", bundle, "-o", out, "--tasks", ALL).code == 0
    found: dict[str, Any] = (
        load_file(out) if form == "safetensors" else dict(np.load(out, allow_pickle=False))
    )
    found.pop("geometry", None)
    expected = load(bundle)(photo, tasks=ALL).arrays  # type: ignore[arg-type]  # a text will do
    assert found.keys() == expected.keys() == {*ALL.split(",")}
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert (found["segment"].dtype, found["segment"].shape) == (np.uint8, (28, 42))
    assert (found["depth"].dtype, found["depth"].shape) == (np.float32, (28, 42))
    mean = pixels_of(0).mean((0, 1))
    np.testing.assert_allclose(found["classify"], mean + np.arange(3), rtol=1e-5)


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_one_task_goes_into_a_npy_by_the_heads_own_protocol(
    clsspec: Clsspec, bundle: Path, photo: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    real = loading.load_engine
    monkeypatch.setattr(
        loading, "load_engine", lambda graph, **_: loaded.append(graph.name) or real(graph)
    )
    out = photo.parent / "out.npy"
    assert clsspec("extract", photo, "-m", bundle, "-o", out, "--tasks", task).code == 0
    assert loaded == ["model.onnx", f"{task}.onnx"]
    np.testing.assert_array_equal(np.load(out), alone(bundle, photo)[task])


def test_several_pictures_share_one_file_under_their_names(
    clsspec: Clsspec, bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("cab")]
    out = tmp_path / "out.npz"
    tasks = ("--tasks", "segment,classify", "--batch-size", 2)
    assert clsspec("extract", *pictures, "-m", bundle, "-o", out, *tasks).code == 0
    with np.load(out) as found:
        assert len(found) == 9
        for picture in pictures:
            expected = load(bundle)(picture, tasks=("segment", "classify"))
            np.testing.assert_array_equal(found[f"{picture.name}/segment"], expected.segment)
            np.testing.assert_array_equal(found[f"{picture.name}/classify"], expected.classify)


def test_two_tasks_do_not_fit_in_a_npy(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    out = photo.parent / "out.npy"
    result = clsspec("extract", photo, "-m", bundle, "-o", out, "--tasks", "segment,depth")
    assert result.code == 2
    assert result.error() == (
        "a .npy file holds one array, not segment, depth; "
        "choose one with --tasks and --layers, or use npz"
    )


def test_layers_of_heads_are_their_own(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    options = ("-m", bundle, "--tasks", "segment", "--layers", "0")
    result = clsspec("extract", photo, *options)
    assert result.code == 2
    assert result.error() == "layers are for cls and patches; heads have layers of their own"
    assert set(tree(photo.parent)) == {"photo.png"}


def test_a_task_without_a_head_names_those_that_there_are(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    result = clsspec("extract", photo, "-m", tiny_bundle, "--tasks", "cls,depth")
    assert result.code == 2
    assert result.error().startswith("this bundle has no head for depth; its heads are: none")
