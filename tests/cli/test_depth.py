from __future__ import annotations

from pathlib import Path
from typing import Any

import head_bundle as by_hand
import numpy as np
import official_inference as official
import pytest
import torch
from command_line import Clsspec, tree
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clsspec_serve import load, models, preparation
from clsspec_serve.heads import Protocol
from clsspec_serve.pictures.colormap import colour

Pixels = NDArray[np.uint8]
WEIGHT = (0.02, 0.01, 0.005, 0.1)
MIRRORED = Protocol(size=(57, 57), policy="short", flip=True)


def write(folder: Path, maximum: float = 10, scale: float = 1) -> Path:
    weight = [scale * each for each in WEIGHT]
    head = by_hand.depth_head(weight, maximum=maximum, protocol=MIRRORED)
    return by_hand.write_head_bundle(folder, [head])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def room(height: int, width: int, seed: int = 0) -> Pixels:
    """A slope in every colour, and noise."""
    rng = np.random.default_rng([height, width, seed])
    slope = np.add.outer(np.linspace(0, 90, height), np.linspace(0, 90, width))
    noise = rng.integers(0, 70, (height, width, 3))
    return (slope[..., None] + noise).astype(np.uint8)


def save(path: Path, pixels: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "pictures" / "photo.png", room(97, 150))


def expected(
    pixels: Pixels,
    *,
    flip: bool = False,
    windows: tuple[int, int] | None = None,
    scale: float = 1,
    maximum: float = 10,
) -> NDArray[Any]:
    """Metres by the official steps, from pixels in 0..255 and their coverage."""

    def network(seen: Tensor) -> Tensor:
        means = torch.nn.functional.avg_pool2d(seen, by_hand.PATCH)
        weight = scale * torch.tensor(WEIGHT, dtype=torch.float64)
        return torch.einsum("bchw,c->bhw", means, weight)[:, None].clamp(0.001, maximum)

    size = official.short_side(pixels.shape[:2], 57)
    shown = np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    picture = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].double()
    covered = torch.cat([picture, torch.ones_like(picture[:, :1])], dim=1)
    return official.depth(
        covered, network, by_hand.PATCH, pixels.shape[:2], windows, flip=flip
    ).numpy()


def values_of(path: Path) -> tuple[NDArray[Any], dict[str, str]]:
    """The numbers in a PNG and its text."""
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "I;16")
        text = {key: str(value) for key, value in picture.info.items()}
        return np.asarray(picture), text


def test_millimetres_go_beside_the_picture(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    result = clsspec("depth", photo, "--model", bundle)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert set(tree(photo.parent)) == {"photo.png", "photo.depth.png"}
    values, text = values_of(photo.parent / "photo.depth.png")
    assert (values.dtype, values.shape) == (np.uint16, (97, 150))
    assert abs(values - 1000 * expected(room(97, 150))).max() <= 0.51
    assert np.ptp(values) > 500
    assert text == {
        "depth_scale": "1000",
        "depth_unit": "millimetre",
        "Comment": "metres = value / 1000; 0 is no value",
    }


@pytest.mark.parametrize(
    ("maximum", "factor"), [(65.4, 1000), (65.5, 256), (80.0, 256), (255.9, 256)]
)
def test_a_far_range_is_written_as_of_kitti(
    clsspec: Clsspec, tmp_path: Path, photo: Path, maximum: float, factor: int
) -> None:
    bundle, out = write(tmp_path / "far", maximum, 10), photo.parent / "out.png"
    assert clsspec("depth", photo, "-m", bundle, "-o", out).code == 0
    values, text = values_of(out)
    assert text["depth_scale"] == str(factor)
    metres = expected(room(97, 150), scale=10, maximum=maximum)
    assert abs(values - factor * metres).max() <= 0.52


def test_a_range_that_no_png_reaches_is_refused_before_any_work(
    clsspec: Clsspec, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = write(tmp_path / "far", 300, 30), photo.parent / "out.npy"
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "decode_image", lambda *_: pytest.fail("a picture was read"))
        result = clsspec("depth", photo, "-m", bundle)
    assert result.code == 2
    assert result.error() == "a depth PNG reaches 256.00 m, this head 300 m; write a .npy"
    assert set(tree(photo.parent)) == {"photo.png"}
    assert clsspec("depth", photo, "-m", bundle, "-o", out).code == 0
    metres = expected(room(97, 150), scale=30, maximum=300)
    np.testing.assert_allclose(np.load(out), metres, atol=1e-3)


def test_npy_holds_metres(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    out = photo.parent / "out.npy"
    assert clsspec("depth", photo, "-m", bundle, "-o", out).code == 0
    assert np.load(out).dtype == np.float32
    np.testing.assert_allclose(np.load(out), expected(room(97, 150)), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "known"),
    [
        (("--flip",), {"flip": True}),
        (("--window", "40"), {"windows": (40, 26), "flip": True}),  # the head's own
        (("--window", "40", "--no-flip"), {"windows": (40, 26)}),
        (("--window", "40", "--stride", "31", "--no-flip"), {"windows": (40, 31)}),
        (("--window", "40", "--stride", "31", "--flip"), {"windows": (40, 31), "flip": True}),
        (("--window", "0"), {}),
    ],
)
def test_options_are_those_of_the_official_evaluation(
    clsspec: Clsspec, bundle: Path, photo: Path, options: tuple[str, ...], known: Any
) -> None:
    out = photo.parent / "out.npy"
    assert clsspec("depth", photo, "-m", bundle, "-o", out, *options).code == 0
    np.testing.assert_allclose(np.load(out), expected(room(97, 150), **known), atol=1e-5)


def test_variables_stand_for_options(
    clsspec: Clsspec, bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = photo.parent / "out.npy"
    variables = {"MODEL": bundle, "WINDOW": 40, "STRIDE": 31, "FLIP": 1, "SIZE": "43x91"}
    for name, value in {**variables, "RESIZE": "squash", "COLORMAP": "turbo"}.items():
        monkeypatch.setenv(f"CLSSPEC_{name}", str(value))
    assert clsspec("depth", photo, "-o", out).code == 0
    model = load(bundle)
    options: dict[str, Any] = {"window": 40, "stride": 31, "flip": True, "size": (43, 91)}
    metres = model(photo, tasks=("depth",), policy="squash", **options).depth
    np.testing.assert_array_equal(np.load(out), metres)
    assert set(tree(photo.parent)) == {"photo.png", "out.npy", "out.colors.png"}


def test_what_was_cropped_away_has_no_value(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    for out in (photo.parent / "out.npy", photo.parent / "out.png"):
        options = ("-o", out, "--resize", "crop", "--colormap", "turbo")
        assert clsspec("depth", photo, "-m", bundle, *options).code == 0
    metres, (values, _) = np.load(photo.parent / "out.npy"), values_of(photo.parent / "out.png")
    # 97 x 150 at 57 x 88, of which 57 columns are kept, from 16 on (15.5, to even).
    kept = [16 <= (x + 0.5) * 88 / 150 < 73 for x in range(150)]
    np.testing.assert_array_equal(np.isfinite(metres).all(axis=0), kept)
    np.testing.assert_array_equal(np.isnan(metres).all(axis=0), np.logical_not(kept))
    np.testing.assert_array_equal((values != 0).all(axis=0), kept)
    np.testing.assert_array_equal((values == 0).all(axis=0), np.logical_not(kept))
    with Image.open(photo.parent / "out.colors.png") as picture:
        coloured = np.asarray(picture)
    assert coloured[:, np.logical_not(kept)].max() == 0


def test_colours_go_beside_the_depth(clsspec: Clsspec, bundle: Path, photo: Path) -> None:
    assert clsspec("depth", photo, "-m", bundle, "--colormap", "magma_r").code == 0
    files = {"photo.png", "photo.depth.png", "photo.depth.colors.png"}
    assert set(tree(photo.parent)) == files
    with Image.open(photo.parent / "photo.depth.colors.png") as picture:
        assert picture.size == (150, 97)
        found = np.asarray(picture)
    metres = load(bundle)(photo, tasks=("depth",)).depth
    low, high = np.percentile(metres, [2, 98])
    np.testing.assert_array_equal(found, colour(metres, "magma_r", float(low), float(high)))


def test_a_colour_map_that_does_not_exist_is_refused_before_the_model_is_loaded(
    clsspec: Clsspec, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "find_bundle", lambda *_: pytest.fail("the model was loaded"))
    result = clsspec("depth", photo, "-m", "m", "--colormap", "mud")
    assert result.code == 2
    assert "mud" in result.error()


@pytest.mark.parametrize("form", ["png", "npy"])
def test_pictures_of_several_sizes_each_get_their_own_depth(
    clsspec: Clsspec, bundle: Path, tmp_path: Path, form: str
) -> None:
    sizes = [(97, 150), (150, 97), (97, 150), (30, 31), (1, 1), (200, 60)]
    given = [room(*size, seed) for seed, size in enumerate(sizes)]
    pictures = [save(tmp_path / "in" / f"{i}.png", pixels) for i, pixels in enumerate(given)]
    out = tmp_path / "depths"
    options = ("-m", bundle, "-o", out, "--format", form, "--batch-size", 4, "--flip")
    result = clsspec("depth", *pictures, *options)
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines()[-1].startswith("Measuring: 100 %, 6 images of 6 images")
    assert set(tree(out)) == {f"{i}.depth.{form}" for i in range(6)}
    for index, pixels in enumerate(given):
        file = out / f"{index}.depth.{form}"
        metres = np.load(file) if form == "npy" else values_of(file)[0] / 1000
        tolerance = 1e-5 if form == "npy" else 0.00052
        np.testing.assert_allclose(metres, expected(pixels, flip=True), rtol=0, atol=tolerance)


def test_a_picture_that_cannot_be_read_is_named_and_the_others_are_written(
    clsspec: Clsspec, bundle: Path, tmp_path: Path
) -> None:
    pictures = [save(tmp_path / "in" / f"{i}.png", room(40, 50, i)) for i in range(3)]
    pictures[0].unlink()
    result = clsspec("depth", *pictures, "-m", bundle, "-o", tmp_path / "out")
    assert result.code == 1
    errors = [line for line in result.err.splitlines() if line.startswith("clsspec: ")]
    assert errors[0].startswith(f"clsspec: {pictures[0]}: cannot be opened: No such file")
    assert errors[1:] == ["clsspec: 1 of 3 images could not be read"]
    assert set(tree(tmp_path / "out")) == {"1.depth.png", "2.depth.png"}


def test_several_pictures_do_not_fit_in_one_file(
    clsspec: Clsspec, bundle: Path, photo: Path
) -> None:
    result = clsspec("depth", photo, photo, "-m", bundle, "-o", photo.parent / "out.png")
    assert result.code == 2
    assert result.error() == "several images do not fit in one .png; use a folder"


def test_a_picture_is_never_overwritten_by_its_depth(
    clsspec: Clsspec, bundle: Path, photo: Path
) -> None:
    before = tree(photo.parent)
    result = clsspec("depth", photo, "-m", bundle, "-o", photo)
    assert result.code == 2
    assert result.error() == f"{photo} is one of the images; a result would replace it"
    assert tree(photo.parent) == before


def test_a_bundle_without_the_head_names_those_that_it_has(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    result = clsspec("depth", photo, "-m", tiny_bundle)
    assert result.code == 2
    assert result.error() == (
        "this bundle has no head for depth; its heads are: none "
        "(`clsspec export --head` and `clsspec fit` add them)"
    )


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    clsspec: Clsspec, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "find_bundle", lambda *_: pytest.fail("the model was loaded"))
    result = clsspec("depth", photo, "-m", "m", "--out", photo / "x.png")
    assert result.code == 1
    assert result.error().endswith("Not a directory")
