from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from export_helpers import network_input
from pictures import PHOTO
from standins.backbones import CLIP, DINOV2, DINOV3, PHOTOGRAPHS, tiny

from clsspec_export.calibration import MOST, calibration_inputs, calibration_pictures
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.images import read_image
from clsspec_serve.position import position_map
from clsspec_serve.transform import transform


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in calibration_pictures(folder)]


def test_pictures_are_found_in_nested_folders_in_order_and_nothing_else_is(tmp_path: Path) -> None:
    names = ("b.png", "a/z.JPG", "a/b/c.webp", "notes.txt", "d.jpg.part", "c.tiff", "jpg", "a.npy")
    assert found(folder_of(tmp_path, *names)) == ["a/b/c.webp", "a/z.JPG", "b.png", "c.tiff"]


def test_hidden_files_and_folders_with_a_pictures_name_are_no_pictures(tmp_path: Path) -> None:
    """macOS leaves `._a.jpg` beside `a.jpg` on other disks, which is no picture."""
    folder_of(tmp_path, "a.jpg", "._a.jpg", ".thumbnails/b.jpg", "c.jpg/d.jpg")
    assert found(tmp_path) == ["a.jpg", "c.jpg/d.jpg"]


def test_a_hidden_folder_that_is_asked_for_is_looked_into(tmp_path: Path) -> None:
    assert found(folder_of(tmp_path / ".cache", "a.jpg")) == ["a.jpg"]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [0]),
        (MOST, [*range(MOST)]),
        (2 * MOST, [*range(0, 2 * MOST, 2)]),
        (MOST + 1, [*range(MOST)]),
        (1000, [index * 1000 // MOST for index in range(MOST)]),
    ],
)
def test_of_many_an_even_choice_is_looked_at(
    tmp_path: Path, count: int, expected: list[int]
) -> None:
    names = [f"{number:04}.png" for number in range(count)]
    folder_of(tmp_path, *names)
    assert found(tmp_path) == [names[index] for index in expected]
    assert MOST == 64


def test_the_choice_reaches_from_the_first_folder_to_the_last(tmp_path: Path) -> None:
    folder_of(tmp_path, *(f"{part}/{number:03}.png" for part in "abcd" for number in range(100)))
    counts = [sum(name.startswith(part) for name in found(tmp_path)) for part in "abcd"]
    assert counts == [16, 16, 16, 16]


@pytest.mark.parametrize("name", ["gone", "file.jpg"])
def test_what_is_no_folder_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.jpg").touch()
    with pytest.raises(UsageError) as info:
        calibration_pictures(tmp_path / name)
    assert str(info.value) == (
        f"{tmp_path / name} is no folder; int8 is calibrated on a folder of pictures"
    )


def test_a_folder_without_pictures_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as info:
        calibration_pictures(folder_of(tmp_path, "notes.txt"))
    assert str(info.value) == (
        f"{tmp_path} has no pictures; accepted are .jpg, .jpeg, .png, .webp, .tif, .tiff, .bmp"
    )


@pytest.mark.parametrize("base", [DINOV2, CLIP, DINOV3])
def test_the_network_is_shown_a_picture_as_at_run_time(base: str) -> None:
    checkpoint = tiny(base)
    patch = checkpoint.model.patch_embed.proj.kernel_size[0]
    given = [*calibration_inputs(checkpoint, PHOTOGRAPHS)]
    assert len(given) == len(PHOTOGRAPHS) > 1
    for path, inputs in zip(PHOTOGRAPHS, given, strict=True):
        pixels, _ = transform(read_image(path), checkpoint.preprocessing, patch)
        np.testing.assert_array_equal(inputs["pixels"], pixels[None])
        assert inputs["pixels"].dtype == np.uint8
        grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
        expected = position_map(checkpoint.position, checkpoint.table.numpy(), grid)
        np.testing.assert_array_equal(inputs["position"], expected)


def test_a_picture_keeps_its_shape_where_the_model_would_keep_it(tmp_path: Path) -> None:
    checkpoint = tiny(DINOV2)
    fit = checkpoint.preprocessing.model_copy(update={"policy": "fit"})
    object.__setattr__(checkpoint, "preprocessing", fit)
    PHOTO.save(tmp_path / "wide.png")
    (inputs,) = calibration_inputs(checkpoint, [tmp_path / "wide.png"])
    _, _, height, width = inputs["pixels"].shape
    assert width > height
    assert inputs["position"].shape[:2] == (height // 14, width // 14)


def test_pictures_are_read_one_by_one(tmp_path: Path) -> None:
    os.link(PHOTOGRAPHS[0], tmp_path / "a.jpg")
    inputs = calibration_inputs(tiny(), [tmp_path / "a.jpg", tmp_path / "gone.jpg"])
    assert next(inputs)["pixels"].shape == network_input(56, 56)[:1].shape


def test_a_picture_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(ImageError) as info:
        next(calibration_inputs(tiny(), [tmp_path / "a.jpg"]))
    assert str(info.value).startswith(f"{tmp_path / 'a.jpg'}: is not an image; ")
    assert "\n" not in str(info.value)


def test_a_picture_that_cannot_be_shown_is_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ImageError("1x9000 becomes too large")

    monkeypatch.setattr("clsspec_export.calibration.transform", refuse)
    with pytest.raises(ImageError) as info:
        next(calibration_inputs(tiny(), PHOTOGRAPHS))
    assert str(info.value) == f"{PHOTOGRAPHS[0]}: 1x9000 becomes too large"
