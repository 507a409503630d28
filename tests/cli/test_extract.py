from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Clsspec, features_of, save_picture, tree
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from clsspec_serve.geometry import Geometry

OWN = Geometry((28, 42), (28, 42), (0, 0, 28, 42), (0, 0, 0, 0), (28, 42), 14, (2, 3))


def npz(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def close(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_features_go_beside_the_picture(clsspec: Clsspec, tiny_bundle: Path, photo: Path) -> None:
    result = clsspec("extract", photo, "--model", tiny_bundle)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert set(tree(photo.parent)) == {"photo.png", "photo.features.npz"}
    found = npz(photo.parent / "photo.features.npz")
    assert set(found) == {"cls", "patches", "geometry"}
    close(found["cls"], features_of(0)["cls"])
    close(found["patches"], features_of(0)["patches"])
    assert Geometry.from_dict(json.loads(str(found["geometry"]))) == OWN


def test_npy_holds_the_patch_map(clsspec: Clsspec, tiny_bundle: Path, photo: Path) -> None:
    out = photo.parent / "out.npy"
    assert clsspec("extract", photo, "-m", tiny_bundle, "-o", out).code == 0
    close(np.load(out), features_of(0)["patches"])


def test_npy_of_cls_holds_a_vector(clsspec: Clsspec, tiny_bundle: Path, photo: Path) -> None:
    out = photo.parent / "out.npy"
    assert clsspec("extract", photo, "-m", tiny_bundle, "--out", out, "--tasks", "cls").code == 0
    close(np.load(out), features_of(0)["cls"])


def test_safetensors_hold_arrays_and_geometry(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    out = photo.parent / "out.safetensors"
    assert clsspec("extract", photo, "-m", tiny_bundle, "--out", out).code == 0
    with safe_open(out, "numpy") as file:
        assert set(file.keys()) == {"cls", "patches"}
        close(file.get_tensor("patches"), features_of(0)["patches"])
        assert Geometry.from_dict(json.loads(file.metadata()["geometry"])) == OWN


def test_only_the_task_asked_for_is_computed(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, spy: Any
) -> None:
    out = photo.parent / "out.npz"
    assert clsspec("extract", photo, "-m", tiny_bundle, "--out", out, "--tasks", "cls").code == 0
    assert spy.asked == [((1, 4, 28, 42), ["cls"])]
    # No head is ever loaded.
    assert [graph for graph, _ in spy.loaded] == [tiny_bundle / "model.onnx"]
    assert set(npz(out)) == {"cls", "geometry"}


def test_layers_are_kept_under_their_own_names(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    out = photo.parent / "out.npz"
    arguments = ("-m", tiny_bundle, "-o", out, "--layers", "0:raw,1")
    assert clsspec("extract", photo, *arguments).code == 0
    found = npz(out)
    assert set(found) == {"cls_0_raw", "patches_0_raw", "cls", "patches", "geometry"}
    close(found["patches_0_raw"], features_of(0)["patches_0_raw"])


def test_several_pictures_share_one_file(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("cab")]
    out = tmp_path / "out.npz"
    result = clsspec("extract", *pictures, "-m", tiny_bundle, "-o", out, "--batch-size", "2")
    assert result.code == 0
    assert result.out == ""
    found = npz(out)
    assert len(found) == 9
    for seed, name in enumerate("cab"):
        close(found[f"{name}.png/cls"], features_of(seed)["cls"])
        close(found[f"{name}.png/patches"], features_of(seed)["patches"])
        assert Geometry.from_dict(json.loads(str(found[f"{name}.png/geometry"]))) == OWN


def test_pictures_of_one_name_are_told_apart_by_their_paths(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = [save_picture(Path(name) / "x.png", seed) for seed, name in enumerate("ab")]
    assert clsspec("extract", *pictures, "-m", tiny_bundle, "-o", "out.npz").code == 0
    found = npz(Path("out.npz"))
    close(found["a/x.png/cls"], features_of(0)["cls"])
    close(found["b/x.png/cls"], features_of(1)["cls"])


@pytest.mark.parametrize("form", ["npy", "npz", "safetensors"])
def test_a_folder_gets_a_file_for_each_picture(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, form: str
) -> None:
    pictures = [save_picture(tmp_path / f"{name}.png", seed) for seed, name in enumerate("ab")]
    out = tmp_path / "deep" / "out"
    assert clsspec("extract", *pictures, "-m", tiny_bundle, "-o", out, "--format", form).code == 0
    assert set(tree(out)) == {f"{name}.features.{form}" for name in "ab"}
    if form == "npy":
        close(np.load(out / "b.features.npy"), features_of(1)["patches"])


def test_pictures_of_several_shapes_keep_their_own_features(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, spy: Any
) -> None:
    # `fit` gives the tall one another grid; own and other take turns.
    tall = tmp_path / "tall.png"
    Image.new("RGB", (28, 56), (9, 9, 9)).save(tall)
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    order = [pictures[0], tall, pictures[1], pictures[2]]
    options = ("-m", tiny_bundle, "-o", tmp_path / "out", "--resize", "fit")
    assert clsspec("extract", *order, *options).code == 0
    assert [shape[0] for shape, _ in spy.asked] == [1, 1, 2]
    for seed in range(3):
        found = npz(tmp_path / "out" / f"{seed}.features.npz")
        close(found["cls"], features_of(seed)["cls"])
    close(npz(tmp_path / "out" / "tall.features.npz")["cls"], np.float32([9, 9, 9, 1]))


def test_a_folder_is_done_past_a_picture_that_cannot_be_read(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    pictures[0].write_bytes(b"nonsense")
    pictures[2].unlink()
    options = ("-m", tiny_bundle, "-o", tmp_path / "out", "--batch-size", "3")
    result = clsspec("extract", *pictures, *options)
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if line.startswith("clsspec: ")]
    assert [line.partition(": is not")[0] for line in errors[:1]] == [f"clsspec: {pictures[0]}"]
    assert errors[1].startswith(f"clsspec: {pictures[2]}: cannot be opened: No such file")
    assert errors[2:] == ["clsspec: 2 of 4 images could not be read"]
    assert set(tree(tmp_path / "out")) == {"1.features.npz", "3.features.npz"}
    for seed in (1, 3):
        found = npz(tmp_path / "out" / f"{seed}.features.npz")
        close(found["cls"], features_of(seed)["cls"])


def test_one_file_for_all_is_not_written_without_one_of_them(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    pictures[2].write_bytes(b"nonsense")
    before = tree(tmp_path)
    out = tmp_path / "out.npz"
    result = clsspec("extract", *pictures, "-m", tiny_bundle, "-o", out, "--batch-size", "1")
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(f"clsspec: {pictures[2]}: is not an image")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "mean"),
    [((), 255.0), (("--background", "000000"), 0.0), (("--background", "#0a0a0a"), 10.0)],
)
def test_transparent_pixels_show_the_background(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, options: tuple[str, ...], mean: float
) -> None:
    Image.new("RGBA", (42, 28)).save(tmp_path / "clear.png")
    out = tmp_path / "out.npy"
    arguments = ("-m", tiny_bundle, "-o", out, "--tasks", "cls", *options)
    assert clsspec("extract", tmp_path / "clear.png", *arguments).code == 0
    close(np.load(out), np.float32([mean, mean, mean, 1]))


def test_the_models_input_can_have_another_size(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, spy: Any
) -> None:
    out = photo.parent / "out.npy"
    options = ("--size", "56x30", "--engine", "openvino", "--threads", "1")
    assert clsspec("extract", photo, "-m", tiny_bundle, "-o", out, *options).code == 0
    # 30 is no multiple of the patch, so it is padded to 42.
    assert np.load(out).shape == (4, 3, 4)
    assert spy.asked == [((1, 4, 56, 42), ["patches"])]
    own = {"engine": "openvino", "precision": "fp32", "threads": 1}
    own |= {"accept": None, "batch_size": 8, "sizes": 4}
    asked = own | {"shared": False, "device": 0}
    assert spy.loaded[0][1] == asked


def test_nothing_is_computed_for_a_place_that_cannot_be_written(
    clsspec: Clsspec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("clsspec_serve.models.find_bundle", refuse)
    photo = save_picture(tmp_path / "a.png")
    result = clsspec("extract", photo, "--model", "m", "--out", photo / "x")
    assert result.code == 1
    assert result.error().endswith("Not a directory")
