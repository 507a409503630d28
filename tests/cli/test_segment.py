from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import official_inference as official
import pytest
import torch
from command_line import Clsspec, Result, tree
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clsspec_serve import load, models, preparation
from clsspec_serve.heads import Category, Protocol
from clsspec_serve.pictures.look import PAINT

Pixels = NDArray[np.uint8]
COLOURS = {
    "fire": (250, 20, 10),
    "grass": (20, 200, 30),
    "sea": (10, 40, 220),
    "snow": (240, 240, 250),
    "coal": (20, 20, 20),
}
SLIDING = Protocol(size=(60, 60), policy="short", window=60, stride=40)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    head = by_hand.nearest_colour_head(COLOURS, SLIDING)
    return by_hand.write_head_bundle(tmp_path / "bundle", [head])


def landscape(height: int, width: int, seed: int = 0) -> Pixels:
    """Areas in the colours of the classes, with noise."""
    rng = np.random.default_rng([height, width, seed])
    rows, columns = -(-height // 20), -(-width // 20)
    cells = rng.integers(0, len(COLOURS), (rows, columns)).repeat(20, 0).repeat(20, 1)
    colours = np.array([*COLOURS.values()])[cells[:height, :width]]
    return np.clip(colours + rng.integers(-40, 41, colours.shape), 0, 255).astype(np.uint8)


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "pictures" / "photo.png", landscape(97, 150))


def nearest_colour(picture: Tensor) -> Tensor:
    """What the bundle computes, from pixels in 0..255."""
    means = torch.nn.functional.avg_pool2d(picture, by_hand.PATCH)
    own = torch.tensor([*COLOURS.values()], dtype=torch.float64)
    return torch.einsum("bchw,kc->bkhw", means, 2 * own) - (own**2).sum(1).view(-1, 1, 1)


def assert_official(ids: NDArray[Any], pixels: Pixels) -> None:
    """They are those of the head's own protocol."""
    size = official.short_side(pixels.shape[:2], 60)
    shown = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    picture = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].double()
    values = official.segmentation(
        picture, nearest_colour, by_hand.PATCH, pixels.shape[:2], (60, 40)
    )
    winner = torch.from_numpy(ids.astype(np.int64))[None]
    assert ids.shape == pixels.shape[:2]
    assert (values.amax(0) - values.gather(0, winner)[0]).max() <= 1e-6 * float(values.abs().max())


def ids_of(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "P")
        return np.asarray(picture)


def rgb(path: Path) -> Pixels:
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def areas(result: Result) -> dict[str, tuple[float, int]]:
    """The table on stdout: percentages and pixels by class."""
    line = re.compile(r" *(\d+\.\d) % +([\d,]+) px  (.+)")
    rows = [line.fullmatch(row) for row in result.out.splitlines()]
    found = {row[3]: (float(row[1]), int(row[2].replace(",", ""))) for row in rows if row}
    assert len(found) == len(rows)
    return found


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


# Refusals


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
