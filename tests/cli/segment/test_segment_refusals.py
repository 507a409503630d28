"""What `clsspec segment` refuses, and what it leaves as it was."""

from __future__ import annotations

from pathlib import Path

import head_bundle as by_hand
import numpy as np
import pytest
from command_line import Clsspec, tree
from landscapes import COLOURS, areas, assert_official, ids_of, landscape, save

from clsspec_serve import models, preparation
from clsspec_serve.heads import Category


def many_classes(tmp_path: Path, count: int) -> Path:
    classes = [Category(name=f"{i}", colour=(i % 256, 0, 0)) for i in range(count)]
    bias = np.arange(count)
    head = by_hand.segment_head(classes, np.zeros((4, count)), bias)
    return by_hand.write_head_bundle(tmp_path / f"bundle{count}", [head])


def test_more_classes_than_a_png_holds_are_refused_before_any_work(
    clsspec: Clsspec, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, before = many_classes(tmp_path, 256), tree(photo.parent)
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "decode_image", lambda *_: pytest.fail("a picture was read"))
        result = clsspec("segment", photo, "-m", bundle)
    assert result.code == 2
    assert result.error() == "a PNG holds up to 255 classes, this head has 256; use --format npy"
    assert tree(photo.parent) == before
    out = photo.parent / "out.npy"
    result = clsspec("segment", photo, "-m", bundle, "-o", out)
    assert np.load(out).dtype == np.uint16
    assert (np.load(out) == 255).all()
    assert areas(result) == {"255": (100.0, 97 * 150)}


def test_as_many_classes_as_a_png_holds_are_written(
    clsspec: Clsspec, tmp_path: Path, photo: Path
) -> None:
    out = photo.parent / "out.png"
    assert clsspec("segment", photo, "-m", many_classes(tmp_path, 255), "-o", out).code == 0
    assert (ids_of(out) == 254).all()


def test_several_pictures_do_not_fit_in_one_file(
    clsspec: Clsspec, bundle: Path, photo: Path
) -> None:
    for suffix in ("png", "npy"):
        out = photo.parent / f"out.{suffix}"
        result = clsspec("segment", photo, photo, "-m", bundle, "-o", out)
        assert result.code == 2
        assert result.error() == f"several images do not fit in one .{suffix}; use a folder"
        assert not out.exists()


@pytest.mark.parametrize("out", ["mask.jpg", "mask.npz", "mask.PNG"])
def test_another_suffix_is_refused(clsspec: Clsspec, bundle: Path, photo: Path, out: str) -> None:
    result = clsspec("segment", photo, "-m", bundle, "-o", photo.parent / out)
    assert result.code == 2
    assert result.error().endswith("accepted are .png, .npy, or a folder without a suffix")


def test_a_picture_is_never_overwritten_by_a_mask(
    clsspec: Clsspec, bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(photo.parent)
    result = clsspec("segment", photo, "-m", bundle, "-o", photo)
    assert result.code == 2
    assert result.error() == f"{photo} is one of the images; a result would replace it"
    # By another name too.
    monkeypatch.chdir(photo.parent)
    assert clsspec("segment", photo, "-m", bundle, "-o", "photo.png").code == 2
    assert tree(photo.parent) == before
    # As of `*.png`, the second time.
    mask = save(photo.parent / "photo.mask.png", landscape(60, 60))
    before = tree(photo.parent)
    result = clsspec("segment", photo, mask, "-m", bundle)
    assert (result.code, result.error()[: len(str(mask))]) == (2, str(mask))
    assert tree(photo.parent) == before


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_written(
    clsspec: Clsspec, bundle: Path, tmp_path: Path
) -> None:
    given = [landscape(97, 150, seed) for seed in range(3)]
    pictures = [save(tmp_path / "in" / f"{i}.png", pixels) for i, pixels in enumerate(given)]
    pictures[1].write_bytes(b"nonsense")
    options = ("-m", bundle, "-o", tmp_path / "out", "--batch-size", "2")
    result = clsspec("segment", *pictures, *options)
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if line.startswith("clsspec: ")]
    assert errors[0].startswith(f"clsspec: {pictures[1]}: is not an image")
    assert errors[1:] == ["clsspec: 1 of 3 images could not be read"]
    assert set(tree(tmp_path / "out")) == {"0.mask.png", "2.mask.png"}
    for index in (0, 2):
        assert_official(ids_of(tmp_path / "out" / f"{index}.mask.png"), given[index])


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    clsspec: Clsspec, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "find_bundle", lambda *_: pytest.fail("the model was loaded"))
    result = clsspec("segment", photo, "-m", "m", "--out", photo / "x.png")
    assert result.code == 1
    assert result.error().endswith("Not a directory")


def test_a_bundle_without_the_head_names_those_that_it_has(
    clsspec: Clsspec, tmp_path: Path, photo: Path
) -> None:
    bundle = by_hand.write_head_bundle(tmp_path / "bundle", [by_hand.depth_head([1, 0, 0, 0])])
    result = clsspec("segment", photo, "-m", bundle)
    assert result.code == 2
    assert result.error() == (
        "this bundle has no head for segment; its heads are: depth "
        "(`clsspec export --head` and `clsspec fit` add them)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", "10", "--stride", "11"), "accepted are 1 <= stride <= window"),
        (("--window", "0", "--stride", "5"), "window 0 is the whole picture at once"),
        (("--stride", "61"), "window 60, stride 61; accepted are 1 <= stride <= window"),
        (("--size", "12y"), "accepted is HxW in pixels"),
    ],
)
def test_options_that_contradict_each_other_are_bad_usage(
    clsspec: Clsspec, bundle: Path, photo: Path, options: tuple[str, ...], message: str
) -> None:
    result = clsspec("segment", photo, "-m", bundle, *options)
    assert result.code == 2
    assert message in result.error()
    assert set(tree(photo.parent)) == {"photo.png"}


def test_a_head_that_cannot_be_loaded_is_one_line(
    clsspec: Clsspec, tmp_path: Path, photo: Path
) -> None:
    head = by_hand.nearest_colour_head(COLOURS)
    broken = by_hand.HeadGraph(head.description, b"no graph")
    bundle = by_hand.write_head_bundle(tmp_path / "bundle", [broken])
    result = clsspec("segment", photo, "-m", bundle)
    assert result.code == 1
    assert "cannot load" in result.error()
    assert set(tree(photo.parent)) == {"photo.png"}
