from __future__ import annotations

import io
import struct

import imageio.v3 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.errors import UsageError
from clsspec_serve.heads import Category
from clsspec_serve.pictures.masks import VOID_COLOUR, Area, areas, mask_png, overlay

CATEGORIES = (
    Category(name="wall", colour=(120, 120, 120)),
    Category(name="tree", colour=(4, 200, 3)),
    Category(name="sky", colour=(6, 230, 230)),
)
IDS = np.array([[0, 1, 1, 2], [2, 2, 2, 255], [1, 2, 2, 1]], np.uint8)
MANY = tuple(Category(name=f"class {each}", colour=(each, 255 - each, 7)) for each in range(255))


def test_the_pixels_of_a_mask_are_the_ids() -> None:
    content = mask_png(IDS, CATEGORIES)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), IDS)
    # Bit depth 8, colour type 3, indexed; a reader of its own finds the colours.
    assert struct.unpack(">IIBB", content[16:26]) == (4, 3, 8, 3)
    colours = [
        [CATEGORIES[each].colour if each < 3 else VOID_COLOUR for each in row] for row in IDS
    ]
    np.testing.assert_array_equal(imageio.imread(content, mode="RGB"), colours)


def test_the_palette_has_every_class_and_void() -> None:
    content = mask_png(np.arange(256, dtype=np.uint8).reshape(16, 16), MANY)
    with Image.open(io.BytesIO(content)) as picture:
        palette = picture.getpalette()
    assert palette is not None
    assert len(palette) == 768
    assert palette[:765] == [value for category in MANY for value in category.colour]
    assert tuple(palette[765:]) == VOID_COLOUR


@pytest.mark.parametrize("categories", [CATEGORIES[:1], CATEGORIES[:2]])
def test_few_classes_keep_eight_bits(categories: tuple[Category, ...]) -> None:
    content = mask_png(np.zeros((5, 3), np.uint8), categories)
    assert struct.unpack(">IIBB", content[16:26]) == (3, 5, 8, 3)


def test_a_strided_mask_is_written_as_it_is_seen() -> None:
    with Image.open(io.BytesIO(mask_png(IDS[::-1, ::2], CATEGORIES))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), IDS[::-1, ::2])


@pytest.mark.parametrize(
    ("ids", "categories"),
    [(IDS.astype(np.uint16), CATEGORIES), (IDS, (*MANY, CATEGORIES[0])), (IDS + 0.0, CATEGORIES)],
)
def test_ids_that_need_more_than_a_byte_are_refused(
    ids: NDArray[np.uint8], categories: tuple[Category, ...]
) -> None:
    with pytest.raises(UsageError, match=r"ids of 8 bits for up to 255 classes; write a \.npy"):
        mask_png(ids, categories)


def test_an_id_without_a_class_is_refused_everywhere() -> None:
    ids = np.array([[0, 1], [2, 3]], np.uint8)
    message = "an id is 3; accepted are 0 to 2 for the classes, and 255 for void"
    with pytest.raises(UsageError, match=message):
        mask_png(ids, CATEGORIES)
    with pytest.raises(UsageError, match=message):
        areas(ids, CATEGORIES)
    with pytest.raises(UsageError, match=message):
        overlay(np.zeros((2, 2, 3), np.uint8), ids, CATEGORIES, 0.5)


@pytest.mark.parametrize("ids", [IDS[None], IDS[:0], IDS.astype(np.int64)])
def test_ids_of_another_shape_or_type_are_refused(ids: NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="uint8 or uint16, not empty"):
        areas(ids, CATEGORIES)


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 1])
@pytest.mark.parametrize("wide", [False, True])
def test_paint_is_mixed_into_every_pixel_but_void(alpha: float, wide: bool) -> None:
    # More rows than are worked on at a time.
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 256, (600, 11, 3), np.uint8)
    ids = generator.choice(np.array([0, 1, 2, 255], np.uint8), (600, 11))
    given = np.where(ids == 255, 65535, ids.astype(np.uint16)) if wide else ids
    found = overlay(picture, given, CATEGORIES, alpha)
    assert found.dtype == np.uint8
    for y in range(600):
        for x in range(11):
            if ids[y, x] == 255:
                assert found[y, x].tolist() == picture[y, x].tolist()
                continue
            colour = CATEGORIES[ids[y, x]].colour
            exact = [
                (1 - alpha) * int(below) + alpha * paint
                for below, paint in zip(picture[y, x], colour, strict=True)
            ]
            assert np.abs(found[y, x] - np.array(exact)).max() <= 0.5 + 1e-4


def test_the_picture_that_is_painted_stays_as_it_was() -> None:
    picture = np.full((3, 4, 3), 9, np.uint8)
    overlay(picture, IDS, CATEGORIES, 1)
    assert np.all(picture == 9)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_beyond_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match="accepted are 0 to 1"):
        overlay(np.zeros((3, 4, 3), np.uint8), IDS, CATEGORIES, alpha)


def test_ids_of_another_size_than_the_picture_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\(3, 4\) do not cover a picture \(4, 3, 3\)"):
        overlay(np.zeros((4, 3, 3), np.uint8), IDS, CATEGORIES, 0.5)


def test_areas_are_counted_and_sorted() -> None:
    assert areas(IDS, CATEGORIES) == [
        Area("sky", 6, 0.5),
        Area("tree", 4, 1 / 3),
        Area("wall", 1, 1 / 12),
        Area("void", 1, 1 / 12),
    ]
    assert areas(np.full((2, 2), 2, np.uint8), CATEGORIES) == [Area("sky", 4, 1.0)]


def test_areas_of_more_classes_than_a_byte_holds() -> None:
    many = (*MANY, *MANY)
    ids = np.full((700, 3), 509, np.uint16)
    ids[0, 0], ids[699] = 65535, 256
    assert areas(ids, many) == [
        Area("class 254", 2096, 2096 / 2100),
        Area("class 1", 3, 3 / 2100),
        Area("void", 1, 1 / 2100),
    ]
