"""The embedded model, which commands take that are given no other, and its line on stderr."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Clsspec, Result, save_picture
from fit_pictures import write_segmentation
from head_bundle import depth_head, nearest_colour_head, write_head_bundle

from clsspec_serve import models
from clsspec_serve.bundle import open_bundle, write_manifest

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LINE = (
    "model: bundle, the embedded one (trained on 7 rooms; for more, `clsspec models` and --model)"
)


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with two heads where the installed package has its own."""
    heads = [nearest_colour_head(COLOURS), depth_head([0.02, 0.01, 0.005, 0.1])]
    folder = write_head_bundle(tmp_path / "default_model", heads)
    describe(folder, "trained on 7 rooms.")
    monkeypatch.setattr(models, "EMBEDDED", folder)
    return folder


def describe(folder: Path, description: str | None) -> None:
    manifest = open_bundle(folder).manifest
    update = {"name": "bundle", "description": description}
    write_manifest(folder, manifest.model_copy(update=update))


def lines_of_model(result: Result) -> list[str]:
    return [line for line in result.err.splitlines() if line.startswith("model: ")]


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("command", ["extract", "segment", "depth", "view"])
def test_a_command_on_pictures_takes_it_and_says_so_once(
    clsspec: Clsspec, tmp_path: Path, command: str
) -> None:
    photos = [save_picture(tmp_path / "pictures" / f"{seed}.png", seed) for seed in range(3)]
    result = clsspec(command, *photos, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert lines_of_model(result) == [LINE]
    assert "model: " not in result.out
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.usefixtures("embedded")
def test_it_is_inspected_and_scored(clsspec: Clsspec, tmp_path: Path) -> None:
    data = tmp_path / "data"
    save_picture(data / "images" / "a.png")
    (data / "depth").mkdir()
    np.save(data / "depth" / "a.npy", np.ones((28, 42), np.float32))
    for arguments in (["inspect"], ["inspect", "--json"], ["eval", data, "--task", "depth"]):
        result = clsspec(*arguments)
        assert result.code == 0, result.err
        assert lines_of_model(result) == [LINE]
        assert "model: " not in result.out


def test_it_is_verified(
    clsspec: Clsspec, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "EMBEDDED", tiny_bundle)
    describe(tiny_bundle, "trained on 7 rooms")
    result = clsspec("verify")
    assert result.out.startswith("files: 5 whole\nonnxruntime fp32: passed: 6 outputs")
    assert lines_of_model(result) == [LINE]


def test_heads_are_trained_on_it(
    clsspec: Clsspec, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = shutil.copytree(exported, tmp_path / "default_model")
    describe(embedded, "trained on 7 rooms")
    monkeypatch.setattr(models, "EMBEDDED", embedded)
    monkeypatch.setenv("CLSSPEC_CACHE", str(tmp_path / "cache"))
    write_segmentation(tmp_path / "regions", 4, size=(56, 56), block=28)
    result = clsspec(
        *("fit", "segment", tmp_path / "regions", "--into", tmp_path / "new"),
        *("--epochs", "2", "--lr", "1e-2", "--val-share", "0.25", "--size", "56"),
    )
    assert result.code == 0, result.err
    assert lines_of_model(result) == [LINE]
    assert open_bundle(tmp_path / "new").manifest.description == "trained on 7 rooms"


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("named", ["option", "environment"])
def test_a_model_that_was_named_is_not_announced(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    option, argument = ["--model", tiny_bundle], [tiny_bundle]
    if named == "environment":
        monkeypatch.setenv("CLSSPEC_MODEL", str(tiny_bundle))
        option, argument = [], []
    assert clsspec("extract", photo, *option) == Result(0, "", "")
    result = clsspec("inspect", *argument)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0].split() == ["name", "tiny"]


def test_one_that_says_nothing_of_its_training_is_named_all_the_same(
    clsspec: Clsspec, embedded: Path, photo: Path
) -> None:
    describe(embedded, None)
    result = clsspec("extract", photo)
    (line,) = lines_of_model(result)
    assert line == "model: bundle, the embedded one (for more, `clsspec models` and --model)"
