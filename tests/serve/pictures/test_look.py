"""What is shown of one prediction."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.errors import OutputError, UsageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.heads import Category, DepthHead, Protocol, SegmentationHead, Source
from clsspec_serve.pictures.alignment import enlarge
from clsspec_serve.pictures.colormap import colour_levels
from clsspec_serve.pictures.look import FORMATS, Look, encode_picture, look, parse_point
from clsspec_serve.pictures.pca import fit
from clsspec_serve.pictures.similarity import similarity
from clsspec_serve.schema import Output

PHOTO = skimage.data.astronaut()[:240, :160]
GEOMETRY = Geometry((240, 160), (120, 80), (8, 5, 84, 70), (0, 0, 0, 0), (84, 70), 14, (6, 5))
PATCHES = np.random.default_rng(0).normal(size=(6, 5, 16)).astype(np.float32)
FEATURES = (Output(name="patches", kind="patches", layer=1, norm=True),)
COMMON: dict[str, Any] = {
    "inputs": FEATURES,
    "protocol": Protocol(size=(84, 70), policy="crop"),
    "source": Source(name="tests", format="none"),
}
SEGMENT = SegmentationHead(
    **COMMON,
    classes=(
        Category(name="wall", colour=(120, 120, 120)),
        Category(name="person", colour=(150, 5, 61)),
        Category(name="sky", colour=(6, 230, 230)),
    ),
)
DEPTH = DepthHead(**COMMON, minimum=0.001, maximum=10, method="regression")
IDS = np.ones((240, 160), np.uint8)
IDS[:60] = 0
IDS[:24, :80] = 255
METRES = np.linspace(1, 5, 240 * 160, dtype=np.float32).reshape(240, 160)


def seen(**options: Any) -> Look:
    given = {"height": 120, "dense": {}, "heads": (SEGMENT, DEPTH)} | options
    return look("photo.jpg", PHOTO, PATCHES, GEOMETRY, **given)


def test_photograph_and_pca_are_always_there() -> None:
    found = seen()
    pca = fit([found.seen])
    photograph, colours = found.panels(pca, "PCA")
    assert photograph.title == "photo.jpg"
    assert colours.title == f"PCA, {sum(pca.shares):.0%} of the variance"
    assert photograph.picture.shape == colours.picture.shape == (120, 80, 3)
    expected = enlarge(pca.apply(PATCHES), GEOMETRY, photograph.picture)
    np.testing.assert_array_equal(colours.picture, expected)
    smooth = found.panels(pca, "PCA", smooth=True)[1].picture
    np.testing.assert_array_equal(
        smooth, enlarge(pca.apply(PATCHES), GEOMETRY, photograph.picture, smooth=True)
    )
    assert np.any(smooth != expected)


def test_every_answer_has_a_panel() -> None:
    found = seen(dense={"depth": METRES, "segment": IDS, "patches": PATCHES}, point=(80, 120))
    titles = [panel.title.partition(":")[0] for panel in found.panels(fit([PATCHES]), "PCA")]
    assert [title.partition(",")[0] for title in titles] == [
        "photo.jpg",
        "PCA",
        "Similarity to 80",
        "Segmentation",
        "Depth",
    ]
    assert {panel.picture.shape for panel in found.further} == {(120, 80, 3)}
    (only,) = seen(dense={"depth": METRES}).further
    assert only.title == f"Depth: {1.08:.2f} to {4.92:.2f} m"


def test_a_mask_lies_over_the_photograph_and_names_its_classes() -> None:
    (panel,) = seen(dense={"segment": IDS}, height=240).further
    assert panel.legend == (((150, 5, 61), "person 75%"), ((120, 120, 120), "wall 20%"))
    person = 0.45 * PHOTO[100:].astype(float) + 0.55 * np.array([150, 5, 61])
    assert np.abs(panel.picture[100:] - person).max() <= 1
    # Void shows the photograph.
    np.testing.assert_array_equal(panel.picture[:20, :70], PHOTO[:20, :70])


def test_the_depth_is_coloured_from_near_to_far() -> None:
    (panel,) = seen(dense={"depth": METRES}).further
    brightness = panel.picture.astype(int).sum(2)
    assert brightness[:5].min() > 600
    assert brightness[-5:].max() < 100


def test_the_most_similar_place_is_the_point_itself() -> None:
    # (x, y) = (75, 130): 65 and 37 of 120x80, 57 and 32 of the crop: patch (4, 2).
    found = seen(point=(75, 130))
    (panel,) = found.further
    cosines = similarity(PATCHES, 4, 2)
    assert panel.title == f"Similarity to 75,130: {cosines.min():.2f} to {1:.2f}"
    ends = colour_levels("viridis")
    at = {}
    for name, (row, col) in {
        "point": (4, 2),
        "least": np.unravel_index(cosines.argmin(), cosines.shape),
    }.items():
        y, x = GEOMETRY.patch_to_image(int(row), int(col))
        at[name] = panel.picture[int(y / 2) + 5 * (name == "point"), int(x / 2) + 5].tolist()
    assert at == {"point": ends[-1].tolist(), "least": ends[0].tolist()}


def test_the_point_is_marked_where_it_is() -> None:
    plain, marked = seen(), seen(point=(40, 150))
    rows, columns = np.nonzero((plain.first.picture != marked.first.picture).any(2))
    # 40.5 of 160 columns and 150.5 of 240 rows, at half size.
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(20.25, abs=0.5)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(75.25, abs=0.5)
    np.testing.assert_array_equal(plain.photograph, marked.photograph)


def test_patches_of_padding_are_not_in_the_pca() -> None:
    geometry = Geometry((28, 28), (28, 28), (-28, -14, 84, 70), (0,) * 4, (84, 70), 14, (6, 5))  # type: ignore[arg-type]  # four zeros
    found = look("", PHOTO[:28, :28], PATCHES, geometry, {}, (), height=56)
    np.testing.assert_array_equal(found.seen, PATCHES[2:4, 1:3])


@pytest.mark.parametrize("point", [(160, 0), (0, 240), (500, 500)])
def test_a_point_outside_of_the_picture_is_refused(point: tuple[int, int]) -> None:
    message = f"photo.jpg: point {point[0]},{point[1]} is outside .* 0,0 to 159,239"
    with pytest.raises(UsageError, match=message):
        seen(point=point)


def test_a_point_that_was_cropped_away_is_refused() -> None:
    with pytest.raises(UsageError, match="point 80,3 was cropped away; --resize fit shows"):
        seen(point=(80, 3))


@pytest.mark.parametrize(("text", "point"), [("120,80", (120, 80)), (" 0 , 7 ", (0, 7))])
def test_a_point_is_two_numbers(text: str, point: tuple[int, int]) -> None:
    assert parse_point(text) == point


@pytest.mark.parametrize("text", ["", "5", "5,", ",5", "-1,5", "1.5,2", "1,2,3", "x,y", "²,1"])
def test_a_point_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="accepted is x,y in whole pixels") as refused:
        parse_point(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_suffix_says_what_is_written(suffix: str) -> None:
    content = encode_picture(PHOTO, suffix)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
        error = np.abs(np.asarray(picture.convert("RGB")).astype(int) - PHOTO)
    assert error.mean() < (2 if suffix.startswith(".j") else 1e-9)


def test_a_picture_that_its_format_cannot_hold_is_refused() -> None:
    with pytest.raises(OutputError, match="WEBP cannot hold 20000x1 pixels"):
        encode_picture(np.zeros((1, 20000, 3), np.uint8), ".webp")


def cosine(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    products = sum(float(a) * float(b) for a, b in zip(one, two, strict=True))
    lengths = [sum(float(a) ** 2 for a in each) ** 0.5 for each in (one, two)]
    return products / (lengths[0] * lengths[1])


def test_similarity_is_the_cosine_with_one_patch() -> None:
    found = similarity(PATCHES, 4, 2)
    assert (found.dtype, found.shape) == (np.float32, (6, 5))
    for row in range(6):
        for col in range(5):
            exact = cosine(PATCHES[row, col], PATCHES[4, 2])
            assert found[row, col] == pytest.approx(exact, abs=1e-7)
    assert found[4, 2] == 1


def test_similarity_stays_within_its_range() -> None:
    patches = np.float32([[[3e30, 1e-30], [-3e30, -1e-30], [0, 0]]])
    assert similarity(patches, 0, 0).tolist() == [[1, -1, 0]]
    assert similarity(patches, 0, 2).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(("row", "col"), [(6, 0), (0, 5), (-1, 0), (0, -1)])
def test_similarity_to_a_patch_outside_of_the_grid_is_refused(row: int, col: int) -> None:
    with pytest.raises(UsageError, match=r"outside of the grid \(6, 5\)"):
        similarity(PATCHES, row, col)
