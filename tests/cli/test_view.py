from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tiny_bundle as tiny
from command_line import Clsspec, features_of, pixels_of, save_picture, tree
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve import predictor
from clsspec_serve.geometry import Geometry
from clsspec_serve.heads import Category, DepthHead, Protocol, SegmentationHead, Source
from clsspec_serve.pictures.alignment import enlarge
from clsspec_serve.pictures.panels import fitted
from clsspec_serve.pictures.pca import Pca, fit
from clsspec_serve.predictor import Prediction

OWN = Geometry((28, 42), (28, 42), (0, 0, 28, 42), (0, 0, 0, 0), (28, 42), 14, (2, 3))
HEIGHT = 280
"""Ten times the picture's, so that 140 pixels are a patch."""


def opened(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def places(sheet: NDArray[np.uint8], panel: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Top and left of every place where a panel is to be found in the whole picture."""
    height, width = panel.shape[:2]
    rows, columns = (sheet.shape[axis] - panel.shape[axis] + 1 for axis in (0, 1))
    corner = (sheet[:rows, :columns] == panel[0, 0]).all(2)
    return [
        (int(top), int(left))
        for top, left in np.argwhere(corner)
        if np.array_equal(sheet[top, left : left + width], panel[0])
        and np.array_equal(sheet[top : top + height, left : left + width], panel)
    ]


def photograph(seed: int) -> NDArray[np.uint8]:
    return fitted(pixels_of(seed), HEIGHT)


def colours(seed: int, pca: Pca | None = None, layer: str = "") -> NDArray[np.uint8]:
    """The PCA panel of a picture of the tiny model's own size."""
    patches = features_of(seed)[f"patches{layer}"]
    own = fit([patches]) if pca is None else pca
    return enlarge(own.apply(patches), OWN, photograph(seed))


def test_photograph_and_pca_lie_side_by_side(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    out = photo.parent / "out.png"
    result = clsspec("view", photo, "-m", tiny_bundle, "--out", out, "--height", HEIGHT)
    assert (result.code, result.out, result.err) == (0, "", "")
    sheet = opened(out)
    ((top, left),) = places(sheet, photograph(0))
    ((beside, further),) = places(sheet, colours(0))
    assert top == beside
    assert further > left + photograph(0).shape[1]
    assert set(tree(photo.parent)) == {"photo.png", "out.png"}


def test_a_view_goes_beside_its_picture(clsspec: Clsspec, tiny_bundle: Path, photo: Path) -> None:
    assert clsspec("view", photo, "-m", tiny_bundle).code == 0
    assert set(tree(photo.parent)) == {"photo.png", "photo.view.png"}
    assert opened(photo.parent / "photo.view.png").shape[0] > 480


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_other_formats_show_the_same(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, suffix: str
) -> None:
    for name in ("out.png", f"out.{suffix}"):
        assert clsspec("view", photo, "-m", tiny_bundle, "-o", photo.parent / name).code == 0
    exact, found = (opened(photo.parent / name) for name in ("out.png", f"out.{suffix}"))
    assert np.abs(exact.astype(int) - found).mean() < 3


def test_every_picture_has_a_row_in_one_file(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    out = tmp_path / "out.png"
    assert clsspec("view", *pictures, "-m", tiny_bundle, "-o", out, "--height", HEIGHT).code == 0
    sheet = opened(out)
    found = [*(places(sheet, photograph(seed)) for seed in range(3))]
    beside = [*(places(sheet, colours(seed)) for seed in range(3))]
    assert [len(each) for each in (*found, *beside)] == [1] * 6
    tops = [each[0][0] for each in found]
    assert tops == sorted(tops)
    assert tops == [each[0][0] for each in beside]
    assert len({each[0][1] for each in found}) == len({each[0][1] for each in beside}) == 1


@pytest.mark.parametrize("into", ["file", "folder"])
def test_joint_fits_one_pca(clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path, into: str) -> None:
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(2)]
    pca = fit([features_of(seed)["patches"] for seed in range(2)])
    out = tmp_path / ("out.png" if into == "file" else "out")
    options = ("-m", tiny_bundle, "-o", out, "--height", HEIGHT, "--joint")
    assert clsspec("view", *pictures, *options).code == 0
    for seed in range(2):
        sheet = opened(out if into == "file" else out / f"{seed}.view.png")
        assert len(places(sheet, colours(seed, pca))) == 1
        assert places(sheet, colours(seed)) == []


def test_a_folder_gets_a_view_of_each_picture(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(2)]
    out = tmp_path / "deep" / "out"
    options = ("-m", tiny_bundle, "-o", out, "--height", HEIGHT)
    assert clsspec("view", *pictures, *options).code == 0
    assert set(tree(out)) == {"0.view.png", "1.view.png"}
    for seed in range(2):
        assert len(places(opened(out / f"{seed}.view.png"), colours(seed))) == 1


def test_a_layer_can_be_chosen(clsspec: Clsspec, tiny_bundle: Path, photo: Path, spy: Any) -> None:
    out = photo.parent / "out.png"
    options = ("-m", tiny_bundle, "-o", out, "--height", HEIGHT, "--layers", "0:raw")
    assert clsspec("view", photo, *options).code == 0
    assert [asked for _, asked in spy.asked] == [["patches_0_raw"]]
    assert len(places(opened(out), colours(0, layer="_0_raw"))) == 1


def test_smooth_interpolates_between_patches(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path
) -> None:
    out = photo.parent / "out.png"
    options = ("-m", tiny_bundle, "-o", out, "--height", HEIGHT, "--smooth")
    assert clsspec("view", photo, *options).code == 0
    sheet = opened(out)
    assert places(sheet, colours(0)) == []
    patches = features_of(0)["patches"]
    smooth = enlarge(fit([patches]).apply(patches), OWN, photograph(0), smooth=True)
    assert len(places(sheet, smooth)) == 1


def test_a_point_adds_a_panel_and_a_ring(clsspec: Clsspec, tiny_bundle: Path, photo: Path) -> None:
    plain, pointed = photo.parent / "plain.png", photo.parent / "pointed.png"
    options = ("-m", tiny_bundle, "--height", HEIGHT)
    assert clsspec("view", photo, *options, "-o", plain).code == 0
    assert clsspec("view", photo, *options, "-o", pointed, "--point", "20,7").code == 0
    before, after = opened(plain), opened(pointed)
    assert before.shape[0] == after.shape[0]
    assert after.shape[1] > before.shape[1] + 400
    ((top, left),) = places(before, photograph(0))
    height, width = photograph(0).shape[:2]
    changed = (
        before[top : top + height, left : left + width]
        != (after[top : top + height, left : left + width])
    )
    rows, columns = np.nonzero(changed.any(2))
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(75, abs=1)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(205, abs=1)


def test_all_of_the_picture_is_shown_unless_it_is_to_be_cropped(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    # The model's own way is to squash.
    photo = tmp_path / "tall.png"
    Image.fromarray(skimage.data.astronaut()[:280, :140]).save(photo)
    shown = fitted(opened(photo), HEIGHT)
    found = {}
    for resize in ("", "fit", "crop"):
        out = tmp_path / f"out{resize}.png"
        chosen = ("--resize", resize) if resize else ()
        options = ("-m", tiny_bundle, "--height", HEIGHT, "-o", out, *chosen)
        assert clsspec("view", photo, *options).code == 0
        sheet = opened(out)
        assert len(places(sheet, shown)) == 1
        found[resize] = sheet
    np.testing.assert_array_equal(found[""], found["fit"])
    # At a width of 42 the picture is 84 high, of which the crop leaves 28 out above.
    dimmed = np.rint(shown * np.float32(0.3)).astype(np.uint8)
    assert len(places(found["crop"], dimmed[:93])) == 1
    assert places(found["crop"], dimmed[:94]) == []
    assert places(found["fit"], dimmed[:10]) == []


COMMON: dict[str, Any] = {
    "inputs": tiny.tiny_manifest().outputs[1:2],
    "protocol": Protocol(size=tiny.SIZE, policy="squash"),
    "source": Source(name="tests", format="none"),
}
SEGMENT = SegmentationHead(
    **COMMON,
    classes=(Category(name="wall", colour=(90, 91, 92)), Category(name="sky", colour=(6, 200, 30))),
)
DEPTH = DepthHead(**COMMON, minimum=0.001, maximum=10, method="regression")


def test_heads_are_asked_in_the_same_pass_and_shown(
    clsspec: Clsspec, tiny_bundle: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.ones(tiny.SIZE, np.uint8)
    answers = {
        "patches": features_of(0)["patches"],
        "segment": ids,
        "depth": np.linspace(1, 5, ids.size, dtype=np.float32).reshape(ids.shape),
    }
    asked = []

    def answer(model: Any, images: Any, refuse: Any, **options: Any) -> Any:
        asked.append(options["tasks"])
        return ((image, Prediction(answers, OWN)) for image in images)

    manifest = tiny.tiny_manifest().model_copy(update={"heads": (DEPTH, SEGMENT)})
    monkeypatch.setattr(predictor.Model, "manifest", property(lambda model: manifest))
    monkeypatch.setattr(predictor.Model, "predict_each", answer)
    out = photo.parent / "out.png"
    result = clsspec("view", photo, "-m", tiny_bundle, "-o", out, "--height", HEIGHT)
    assert (result.code, result.err) == (0, "")
    assert [set(tasks) for tasks in asked] == [{"patches", "segment", "depth"}]
    sheet = opened(out)
    # Two rows of two.
    ((_, left),) = places(sheet, photograph(0))
    ((_, beside),) = places(sheet, colours(0))
    below = slice(sheet.shape[0] - 280 - (sheet.shape[1] - beside - 420), None)
    painted = 0.45 * photograph(0).astype(float) + 0.55 * np.array([6, 200, 30])
    mask = sheet[below, left : left + 420][:280]
    assert np.abs(mask - painted).mean() < 3
    depth = sheet[below, beside : beside + 420][:280].astype(int).sum(2)
    assert depth[:100].mean() > depth[100:180].mean() > depth[180:].mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--point", "3"), "point '3'; accepted is x,y in whole pixels"),
        (("--point", "42,0"), "photo.png: point 42,0 is outside of the picture"),
        (("--point", "0,28"), "accepted are 0,0 to 41,27"),
        (("--layers", "0,1"), "layers '0,1'; accepted is one"),
        (("--layers", "7"), "layer 7 is not in this bundle"),
        (("--out", "x.gif"), "--out x.gif: accepted are .png, .jpg, .jpeg, .webp, or a folder"),
        (("--out", "x.npy"), "--out x.npy: accepted are .png"),
        (("--size", "big"), "size 'big'; accepted is HxW"),
        (("--background", "white"), "colour 'white'; accepted is RRGGBB"),
    ],
)
def test_a_wrong_request_is_one_line(
    clsspec: Clsspec,
    tiny_bundle: Path,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(photo.parent)
    before = tree(photo.parent)
    result = clsspec("view", photo, "-m", tiny_bundle, *options)
    assert result.code == 2
    # A progress bar may have begun.
    assert message in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert tree(photo.parent) == before


@pytest.mark.parametrize("height", ["31", "4097", "tall"])
def test_a_height_has_bounds(clsspec: Clsspec, tiny_bundle: Path, photo: Path, height: str) -> None:
    result = clsspec("view", photo, "-m", tiny_bundle, "--height", height)
    assert result.code == 2
    assert "--height" in result.err


def test_a_point_that_the_crop_left_out_is_refused(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "tall.png"
    Image.new("RGB", (40, 400)).save(photo)
    options = ("-m", tiny_bundle, "--resize", "crop", "--point", "5,5")
    result = clsspec("view", photo, *options)
    assert result.code == 2
    assert "tall.png: point 5,5 was cropped away" in result.err.splitlines()[-1]


def test_too_large_a_picture_is_refused(
    clsspec: Clsspec,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spy: Any,
) -> None:
    monkeypatch.setattr("clsspec_serve.pictures.panels.DEFAULT_MAX_PIXELS", 600_000)
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(5)]
    options = ("-m", tiny_bundle, "--height", HEIGHT)
    assert clsspec("view", *pictures[:2], *options, "-o", tmp_path / "two.png").code == 0
    before = tree(tmp_path)
    spy.asked.clear()
    result = clsspec("view", *pictures, *options, "-o", tmp_path / "five.png")
    assert result.code == 2
    # As soon as it is known.
    assert len(spy.asked) == 3
    assert "take a lower --height, or a folder" in result.err.splitlines()[-1]
    assert tree(tmp_path) == before


def test_a_folder_is_done_past_a_picture_that_cannot_be_read(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    pictures[1].write_bytes(b"nonsense")
    out = tmp_path / "out"
    result = clsspec("view", *pictures, "-m", tiny_bundle, "-o", out)
    assert result.code == 1
    assert result.err.splitlines()[-1] == "clsspec: 1 of 3 images could not be read"
    assert set(tree(out)) == {"0.view.png", "2.view.png"}


@pytest.mark.parametrize("options", [("-o", "out.png"), ("-o", "out", "--joint")])
def test_what_belongs_together_is_not_written_in_part(
    clsspec: Clsspec,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures = [save_picture(tmp_path / f"{seed}.png", seed) for seed in range(3)]
    pictures[1].write_bytes(b"nonsense")
    before = tree(tmp_path)
    result = clsspec("view", *pictures, "-m", tiny_bundle, *options)
    assert result.code == 1
    assert "1.png: is not an image" in result.err.splitlines()[-1]
    assert tree(tmp_path) == before


def test_two_pictures_of_one_name_do_not_share_a_file(
    clsspec: Clsspec, tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures = [save_picture(tmp_path / each / "x.png") for each in "ab"]
    result = clsspec("view", *pictures, "-m", tiny_bundle, "-o", tmp_path / "out")
    assert result.code == 2
    assert "would both be written to" in result.error()
