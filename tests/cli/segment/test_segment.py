"""`clsspec segment`: masks, overlays and areas, against the official evaluation in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import official_inference as official
import pytest
import torch
from command_line import Clsspec, tree
from landscapes import (
    COLOURS,
    SLIDING,
    Pixels,
    areas,
    assert_official,
    ids_of,
    landscape,
    nearest_colour,
    save,
)
from PIL import Image

from clsspec_serve import load
from clsspec_serve.heads import Category
from clsspec_serve.pictures.look import PAINT


def rgb(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def test_a_mask_goes_beside_the_picture(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    result = clsspec("segment", photo, "--model", bundle)
    assert (result.code, result.err) == (0, "")
    assert set(tree(photo.parent)) == {"photo.png", "photo.mask.png"}
    path = photo.parent / "photo.mask.png"
    ids = ids_of(path)
    assert_official(ids, landscape(97, 150))
    assert set(np.unique(ids)) == set(range(5))
    with Image.open(path) as picture:
        palette = np.array(picture.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(palette[:5], [*COLOURS.values()])
        colours = np.array([*COLOURS.values()])[ids]
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colours)


def test_the_areas_of_all_pictures_are_printed_largest_first(
    clsspec: Clsspec, bundle: Path, tmp_path: Path
) -> None:
    sizes = [(97, 150), (60, 60), (131, 61)]
    pictures = [save(tmp_path / f"{i}.png", landscape(*size)) for i, size in enumerate(sizes)]
    result = clsspec("segment", *pictures, "-m", bundle, "-o", tmp_path / "masks")
    assert result.code == 0
    ids = np.concatenate([ids_of(file).ravel() for file in (tmp_path / "masks").iterdir()])
    counted = {name: int((ids == i).sum()) for i, name in enumerate(COLOURS)}
    found = areas(result)
    assert {name: pixels for name, (_, pixels) in found.items()} == counted
    assert [*found] == sorted(counted, key=lambda name: -counted[name])
    assert sum(pixels for _, pixels in found.values()) == 97 * 150 + 60 * 60 + 131 * 61
    assert sum(share for share, _ in found.values()) == pytest.approx(100, abs=0.05 * len(found))
    for share, pixels in found.values():
        assert share == pytest.approx(100 * pixels / ids.size, abs=0.051)


def test_classes_of_one_name_are_added_up(clsspec: Clsspec, tmp_path: Path) -> None:
    classes = [Category(name=name, colour=(0, 0, 0)) for name in ("thing", "other", "thing")]
    weight = [[2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 0, 0]]
    head = by_hand.segment_head(classes, weight, [0, 0, 0])
    bundle = by_hand.write_head_bundle(tmp_path / "bundle", [head])
    pixels = np.zeros((42, 126, 3), np.uint8)
    for channel in range(3):
        pixels[:, 42 * channel : 42 * (channel + 1), channel] = 255
    result = clsspec("segment", save(tmp_path / "a.png", pixels), "-m", bundle)
    assert areas(result) == {"thing": (66.7, 2 * 42 * 42), "other": (33.3, 42 * 42)}


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_the_suffix_of_out_says_what_is_written(
    clsspec: Clsspec, bundle: Path, photo: Path, suffix: str
) -> None:
    out = photo.parent / "deep" / f"out.{suffix}"
    assert clsspec("segment", photo, "-m", bundle, "--out", out).code == 0
    ids = np.load(out) if suffix == "npy" else ids_of(out)
    assert (ids.dtype, ids.shape) == (np.uint8, (97, 150))
    assert_official(ids, landscape(97, 150))


@pytest.mark.parametrize("form", ["png", "npy"])
def test_pictures_of_several_sizes_each_get_their_own_mask(
    clsspec: Clsspec, bundle: Path, tmp_path: Path, form: str
) -> None:
    sizes = [(97, 150), (150, 97), (97, 150), (30, 31), (1, 1), (200, 60)]
    given = [landscape(*size, seed) for seed, size in enumerate(sizes)]
    pictures = [save(tmp_path / "in" / f"{i}.png", pixels) for i, pixels in enumerate(given)]
    out = tmp_path / "masks"
    options = ("-m", bundle, "-o", out, "--format", form, "--batch-size", 3)
    result = clsspec("segment", *pictures, *options)
    assert result.code == 0
    assert result.err.splitlines()[-1].startswith("Segmenting: 100 %, 6 images of 6 images")
    assert set(tree(out)) == {f"{i}.mask.{form}" for i in range(6)}
    for index, pixels in enumerate(given):
        file = out / f"{index}.mask.{form}"
        assert_official(np.load(file) if form == "npy" else ids_of(file), pixels)


def test_an_overlay_goes_beside_the_mask(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    assert clsspec("segment", photo, "-m", bundle, "--overlay").code == 0
    files = {"photo.png", "photo.mask.png", "photo.mask.overlay.png"}
    assert set(tree(photo.parent)) == files
    ids = ids_of(photo.parent / "photo.mask.png")
    colours = np.array([*COLOURS.values()])[ids]
    expected = (1 - PAINT) * landscape(97, 150) + PAINT * colours
    found = rgb(photo.parent / "photo.mask.overlay.png")
    assert found.shape == (97, 150, 3)
    assert abs(found - expected).max() <= 0.501


def test_an_overlay_leaves_what_was_cropped_away_as_it_is(
    clsspec: Clsspec, bundle: Path, photo: Path
) -> None:
    out = photo.parent / "out.png"
    options = ("-m", bundle, "-o", out, "--overlay", "--resize", "crop", "--window", "0")
    result = clsspec("segment", photo, *options)
    assert result.code == 0
    ids = ids_of(out)
    # 97 x 150 at 60 x 92 (92.78), of which 60 columns are kept from 16 on: 26.1 to 123.9.
    void = (ids == 255).all(axis=0)
    assert np.flatnonzero(~void).tolist() == list(range(26, 124))
    assert (ids[:, ~void] < 5).all()
    with Image.open(out) as picture:
        assert picture.getpalette()[-3:] == [224, 224, 224]  # type: ignore[index]  # it has one
    assert areas(result)["void"][1] == 97 * void.sum()
    over = rgb(out.with_suffix(".overlay.png"))
    np.testing.assert_array_equal(over[:, void], landscape(97, 150)[:, void])


OPTIONS: list[dict[str, Any]] = [
    {},
    {"window": 0},
    {"window": 33},
    {"window": 33, "stride": 10},
    {"stride": 10},
    {"flip": True, "window": 33},
    {"window": 33, "size": (50, 50)},
    {"size": (42, 70), "policy": "squash"},
    {"policy": "fit", "window": 0},
]
FLAGS = {"policy": "resize"}


def written(options: dict[str, Any]) -> dict[str, str]:
    texts = {}
    for name, value in options.items():
        text = "x".join(map(str, value)) if name == "size" else str(value)
        texts[FLAGS.get(name, name)] = text
    return texts


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_and_their_variables_reach_the_model(
    clsspec: Clsspec, bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, options: Any
) -> None:
    expected = load(bundle)(photo, tasks=("segment",), **options).segment
    out = photo.parent / "out.npy"
    arguments: list[str] = []
    for flag, text in written(options).items():
        arguments += [f"--{flag}"] if text == "True" else [f"--{flag}", text]
    assert clsspec("segment", photo, "-m", bundle, "-o", out, *arguments).code == 0
    np.testing.assert_array_equal(np.load(out), expected)
    out.unlink()
    for flag, text in written(options).items():
        monkeypatch.setenv(f"CLSSPEC_{flag.upper()}", "1" if text == "True" else text)
    monkeypatch.setenv("CLSSPEC_MODEL", str(bundle))
    assert clsspec("segment", photo, "-o", out).code == 0
    np.testing.assert_array_equal(np.load(out), expected)


def test_the_options_differ_in_what_they_answer(bundle: Path, photo: Path) -> None:
    model = load(bundle)
    found = [model(photo, tasks=("segment",), **options).segment for options in OPTIONS]
    assert len({ids.tobytes() for ids in found}) == len(OPTIONS)


def test_a_mirror_image_is_averaged_as_officially(
    clsspec: Clsspec, tmp_path: Path, photo: Path
) -> None:
    # Logits so small that a softmax of them is not one of the classes alone.
    head = by_hand.nearest_colour_head(COLOURS, SLIDING)
    own = np.array([*COLOURS.values()], float).T
    weight = np.vstack([2 * own, np.zeros((1, 5))])
    soft = by_hand.segment_head(
        head.description.classes,  # type: ignore[union-attr]  # it is a SegmentationHead
        weight / 1e4,
        -(own**2).sum(axis=0) / 1e4,
        SLIDING,
    )
    bundle = by_hand.write_head_bundle(tmp_path / "soft", [soft])
    out = photo.parent / "out.npy"
    # The windows of the mirror image are others: 93 pixels are no multiple of their step.
    options = ("--flip", "--window", "33")
    assert clsspec("segment", photo, "-m", bundle, "-o", out, *options).code == 0
    pixels = landscape(97, 150)
    size = official.short_side((97, 150), 60)
    shown = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    values = official.segmentation(
        torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].double(),
        lambda picture: nearest_colour(picture) / 1e4,
        by_hand.PATCH,
        (97, 150),
        (33, 22),
        flip=True,
    )
    winner = torch.from_numpy(np.load(out).astype(np.int64))[None]
    assert (values.amax(0) - values.gather(0, winner)[0]).max() <= 1e-6


def test_a_picture_that_lies_on_its_side_gets_an_upright_mask(
    clsspec: Clsspec, bundle: Path, tmp_path: Path
) -> None:
    pixels, tags = landscape(97, 150), Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=tags)
    out = tmp_path / "out.npy"
    assert clsspec("segment", tmp_path / "a.png", "-m", bundle, "-o", out, "--overlay").code == 0
    assert_official(np.load(out), np.ascontiguousarray(np.rot90(pixels, -1)))
    with Image.open(tmp_path / "out.overlay.png") as over:
        assert over.size == (97, 150)
