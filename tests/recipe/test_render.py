"""From libraries of furniture to shards of frames."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indoor_tiny.classes import class_id
from indoor_tiny.frames import Frames, is_finished, open_shards
from indoor_tiny.render import Rendering, render
from indoor_tiny.scenes.catalogue import read_furniture
from indoor_tiny.scenes.meshes import load_mesh, unpack

RENDERING = Rendering(train=4, held_out=2, side=32, seed=0, textures=1, held_out_textures=1)
NAMES = {
    "Chair": "Living room",
    "Sofa": "Living room",
    "Wardrobe": "Bedroom",
    "Door": "Doors and windows",
}
BOX = """mtllib box.mtl
v -1 0 -1
v 1 0 -1
v 1 4 -1
v -1 4 -1
v -1 0 1
v 1 0 1
v 1 4 1
v -1 4 1
usemtl red
f 1 4 3 2
f 5 6 7 8
f 1 5 8 4
usemtl glass
f 2 3 7 6
f 4 8 7 3
f 1 2 6 5
"""
MATERIALS = "newmtl red\nKd 1 0 0\nd 1\nnewmtl glass\nKd 0.5 0.5 0.5\nd 0.2\n"


@pytest.fixture(scope="module")
def furniture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of boxes: twelve pieces, of which some are held out."""
    folder = tmp_path_factory.mktemp("furniture")
    entries = [(f"{name} {n}", category) for name, category in NAMES.items() for n in range(6)]
    lines = []
    with zipfile.ZipFile(folder / "Boxes.sh3f", "w") as archive:
        for number, (name, category) in enumerate(entries, 1):
            model = f"boxes/{number}/box.obj"
            archive.writestr(model, BOX)
            archive.writestr(f"boxes/{number}/box.mtl", MATERIALS)
            facts = {"name": name, "category": category, "model": f"/{model}", "creator": "a test"}
            facts |= {"width": "50", "depth": "40", "height": "90"}
            lines += [f"{key}#{number}={value}" for key, value in facts.items()]
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def work(furniture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    render(RENDERING, furniture, folder, workers=2)
    return folder


def frames(work: Path, split: str) -> Frames:
    (found,) = open_shards(work / split)
    return found


def test_a_mesh_has_its_catalogues_size_and_stands_on_the_floor(
    furniture: Path, tmp_path: Path
) -> None:
    unpack(furniture, tmp_path)
    mesh = load_mesh(read_furniture(furniture)[0], tmp_path, 16)
    assert mesh is not None
    points = mesh.vertices["position"]
    assert np.allclose(points.min(axis=0), (-0.25, 0, -0.2))
    assert np.allclose(points.max(axis=0), (0.25, 0.9, 0.2))
    assert np.allclose(np.linalg.norm(mesh.vertices["normal"], axis=1), 1)
    assert {(material.colour, material.opacity) for material in mesh.materials} == {
        ((1.0, 0.0, 0.0), 1.0),
        ((128 / 255, 128 / 255, 128 / 255), 0.2),
    }


def test_shards_hold_as_many_frames_as_the_recipe_says(work: Path) -> None:
    train, held_out = frames(work, "train"), frames(work, "held-out")
    assert (len(train), len(held_out)) == (4, 2)
    assert train.images.shape == (4, 32, 32, 3)
    assert train.depth.min() > 0
    seen = np.unique(train.classes)
    assert class_id("wall") in seen
    assert class_id("floor") in seen
    assert (train.images.reshape(4, -1).std(axis=1) > 1).all()


def test_frames_are_a_function_of_the_seed(work: Path, furniture: Path, tmp_path: Path) -> None:
    render(RENDERING, furniture, tmp_path / "again", workers=1)
    render(replace(RENDERING, seed=1, held_out=0), furniture, tmp_path / "other", workers=1)
    assert (frames(work, "train").images == frames(tmp_path / "again", "train").images).all()
    assert (frames(work, "held-out").depth == frames(tmp_path / "again", "held-out").depth).all()
    assert (frames(work, "train").depth != frames(tmp_path / "other", "train").depth).any()


def test_whole_shards_are_kept_and_others_made_again(
    work: Path, furniture: Path, tmp_path: Path
) -> None:
    shard = work / "train" / "shard-000"
    before = (shard / "images.npy").stat().st_mtime_ns
    render(RENDERING, furniture, work, workers=1)
    assert (shard / "images.npy").stat().st_mtime_ns == before
    (work / "held-out" / "shard-000" / "done.json").unlink()
    with pytest.raises(FileNotFoundError, match="no finished shard"):
        open_shards(work / "held-out")
    render(RENDERING, furniture, work, workers=1)
    assert is_finished(work / "held-out" / "shard-000")
