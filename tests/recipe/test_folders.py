"""Frames as labelled folders, read back by clsspec's own readers; and the card of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_frames import write_frames

from clsspec_serve.evaluation.datasets.class_lists import read_classes
from clsspec_serve.evaluation.datasets.plain_folders import depth_folders, segmentation_folders
from indoor_tiny.card import card
from indoor_tiny.classes import CLASSES, COLOURS
from indoor_tiny.folders import write_folder
from indoor_tiny.frames import MILLIMETRES, open_shards


def test_folders_hold_the_frames_of_the_rows_that_were_asked_for(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", 6, seed=0)
    write_folder(tmp_path / "frames", tmp_path / "out", range(2, 5))
    (shard, *_) = open_shards(tmp_path / "frames")
    data = segmentation_folders(tmp_path / "out", read_classes(tmp_path / "out/classes.txt"))
    depths = depth_folders(tmp_path / "out", 0.001, 100)
    assert [category.name for category in data.categories] == list(CLASSES)
    assert len(data.samples) == len(depths.samples) == 3
    for row, sample, depth in zip(range(2, 5), data.samples, depths.samples, strict=True):
        assert (np.asarray(Image.open(sample.image)) == shard.images[row]).all()
        assert (np.asarray(Image.open(sample.label)) == shard.classes[row]).all()
        assert np.allclose(depth.read(depth.depth), shard.depth[row] / MILLIMETRES)


def test_with_a_seed_the_pictures_change_and_the_labels_do_not(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", 4, seed=0)
    for name, seed in (("plain", None), ("one", 1), ("again", 1), ("other", 2)):
        write_folder(tmp_path / "frames", tmp_path / name, range(4), seed=seed)

    def pictures(name: str, kind: str = "images") -> list[bytes]:
        return [file.read_bytes() for file in sorted((tmp_path / name / kind).glob("*.png"))]

    assert pictures("one") == pictures("again")
    assert pictures("one") != pictures("plain")
    assert pictures("one") != pictures("other")
    assert pictures("one", "labels") == pictures("plain", "labels")


def test_more_rows_than_frames_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", 2, seed=0)
    with pytest.raises(IndexError, match="fewer frames"):
        write_folder(tmp_path / "frames", tmp_path / "out", range(3))


def test_every_class_has_a_colour_of_its_own() -> None:
    assert len(set(COLOURS)) == len(COLOURS) == len(CLASSES)


def test_a_card_states_the_figures_beside_the_baselines() -> None:
    def figures(mean_iou: float) -> dict[str, float]:
        return {"mean_iou": mean_iou, "pixel_accuracy": 0.5, "abs_rel": 0.123, "rmse": 0.456}

    names = {"network": 0.4, "position": 0.031, "constant": 0.02}
    found = {name: figures(value) for name, value in names.items()}
    bundle = {**figures(0.378), "classes": {"wall": 0.9, "screen": None}}
    text = card({"frames": 1000, "side": 256, "bundle": bundle, **found})
    assert "| 37.8 | 50.0 | 0.123 | 0.456 |" in text
    assert "| 3.1 |" in text
    assert "| 2.0 |" in text
    assert "wall 90.0, screen -" in text
