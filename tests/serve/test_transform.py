from __future__ import annotations

import tracemalloc

import numpy as np
import official_inference as official
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transforms import PIXELS, preprocessing, timm_eval

from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.images import DEFAULT_MAX_PIXELS
from clsspec_serve.transform import parse_size, plan, transform

# The explicit size


@pytest.mark.parametrize("policy", ["squash", "crop"])
def test_a_picture_of_the_explicit_size_is_not_resampled(policy: str) -> None:
    settings = preprocessing(resize=(256, 256), policy=policy)
    out, geometry = transform(PIXELS, settings, 14, size=(300, 451))
    # 300 → 308, 451 → 462: 4 and 4, 5 and 6.
    assert geometry.padding == (4, 5, 4, 6)
    assert geometry.grid == (22, 33)
    np.testing.assert_array_equal(out[:3, 4:-4, 5:-6].transpose(1, 2, 0), PIXELS)


def test_a_picture_of_the_models_own_size_still_follows_its_protocol() -> None:
    settings = preprocessing(size=(300, 451), resize=(350, 500))
    assert plan((300, 451), settings, 1).resized == (350, 500)


def test_resize_grows_with_the_explicit_size_and_is_rounded_down() -> None:
    settings = preprocessing(resize=(256, 248))
    geometry = plan((1000, 1000), settings, 14, size=(420, 350))
    assert geometry.resized == (420 * 256 // 224, 350 * 248 // 224)
    assert geometry.crop == (30, 18, 420, 350)
    # 100 / 224 of a pixel is still one.
    small = preprocessing(resize=(100, 100))
    assert plan((1000, 1000), small, 1, size=(1, 1)).resized == (1, 1)


@pytest.mark.parametrize(("policy", "mode"), [("squash", "squash"), ("crop", "center")])
@pytest.mark.parametrize("size", [(448, 448), (336, 448)])
def test_an_explicit_size_gives_what_timm_gives_at_that_size(
    size: tuple[int, int], policy: str, mode: str
) -> None:
    settings = preprocessing(resize=(256, 256), policy=policy)
    out, _ = transform(PIXELS, settings, 14, size=size)
    np.testing.assert_array_equal(out[:3], timm_eval(PIXELS, size, 0.875, mode, "bicubic"))


@pytest.mark.parametrize("size", [(0, 224), (224, -1)])
def test_a_size_below_one_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="accepted are 1 and more"):
        transform(PIXELS, preprocessing(), 14, size=size)


# Padding


@pytest.mark.parametrize("own", [True, False])
def test_padding_is_centred_zero_and_not_covered(own: bool) -> None:
    size = (225, 229)
    settings = preprocessing(size=size) if own else preprocessing()
    out, geometry = transform(PIXELS, settings, 14, size=None if own else size)
    # 225 → 238 with 13, 229 → 238 with 9: the odd pixel goes to the bottom and right.
    assert geometry.padding == (6, 4, 7, 5)
    assert geometry.input == out.shape[1:] == (238, 238)
    expected = np.pad(timm_eval(PIXELS, size, 1.0, "squash", "bicubic"), ((0, 0), (6, 7), (4, 5)))
    np.testing.assert_array_equal(out[:3], expected)
    np.testing.assert_array_equal(out[3], np.pad(np.ones(size), ((6, 7), (4, 5))))


def test_black_around_a_small_picture_is_content() -> None:
    out, geometry = transform(PIXELS, preprocessing(resize=(100, 101)), 14)
    assert geometry.crop == (-62, -61, 224, 224)
    assert (out[3] == 1).all()
    assert out[:3, :62].max() == 0
    assert out[:3, 62].max() > 0


# fit


def test_fit_keeps_the_aspect_ratio_and_the_area_in_whole_patches() -> None:
    out, geometry = transform(PIXELS, preprocessing(policy="fit", resize=(256, 256)), 14)
    # 300 · s and 451 · s with s² = 224² / (300 · 451): 182.7 and 274.6.
    assert geometry.resized == geometry.input == (182, 280)
    assert geometry.padding == (0, 0, 0, 0)
    expected = Image.fromarray(PIXELS).resize((280, 182), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(out[:3].transpose(1, 2, 0), np.asarray(expected))
    assert (out[3] == 1).all()


def test_the_policy_asked_for_replaces_the_models_own() -> None:
    asked, geometry = transform(PIXELS, preprocessing(), 14, policy="fit", size=(420, 420))
    own, _ = transform(PIXELS, preprocessing(policy="fit", size=(420, 420)), 14)
    np.testing.assert_array_equal(asked, own)
    assert geometry.grid == (24, 37)


def test_fit_does_not_resample_a_picture_that_fits_already() -> None:
    fitting = np.ascontiguousarray(PIXELS[:182, :280])
    out, _ = transform(fitting, preprocessing(policy="fit"), 14)
    np.testing.assert_array_equal(out[:3].transpose(1, 2, 0), fitting)


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(*[st.integers(1, 100_000)] * 2),
    st.tuples(*[st.integers(1, 2000)] * 2),
    st.integers(1, 32),
)
def test_fit_never_pads_nor_exceeds_the_area_by_more_than_rounding(
    image: tuple[int, int], size: tuple[int, int], patch: int
) -> None:
    try:
        geometry = plan(image, preprocessing(policy="fit"), patch, size=size)
    except ImageError:
        # Only Pillow's intermediate picture can be too large here.
        assert image[0] * 2000 * 2000 > DEFAULT_MAX_PIXELS
        return
    assert geometry.padding == (0, 0, 0, 0)
    assert geometry.crop == (0, 0, *geometry.input)
    # Each side is at most half a patch more than its share of the area.
    height, width = geometry.grid
    area = max(size[0] * size[1] / patch**2, 1)
    assert (height - 0.5) * (width - 0.5) <= area
    assert (height + 0.5) * (width + 0.5) >= min(area, (height + width + 1) / 2)


# short


@pytest.mark.parametrize(
    ("image", "side", "resized"),
    [
        ((512, 683), 512, (512, 683)),
        ((375, 500), 512, (512, 683)),
        ((500, 375), 512, (683, 512)),
        ((600, 900), 512, (512, 768)),
        # 333.5 is rounded up, as MMSegmentation adds a half and cuts off.
        ((200, 667), 100, (100, 334)),
        ((3, 1), 7, (21, 7)),
    ],
)
def test_short_keeps_all_of_the_picture_at_a_short_side(
    image: tuple[int, int], side: int, resized: tuple[int, int]
) -> None:
    settings = preprocessing(policy="short", size=(side, side))
    geometry = plan(image, settings, 14)
    assert geometry.resized == geometry.crop[2:] == resized == official.short_side(image, side)
    assert geometry.crop[:2] == (0, 0)


def test_short_takes_the_short_side_of_the_size_and_pads_to_whole_patches() -> None:
    out, geometry = transform(PIXELS, preprocessing(policy="short"), 14, size=(900, 100))
    # 300 x 451 at 100 x 150.33; 100 is padded by 5 and 7, 150 by 2 and 2.
    assert geometry.resized == (100, 150)
    assert geometry.padding == (6, 2, 6, 2)
    expected = np.asarray(Image.fromarray(PIXELS).resize((150, 100), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(out[:3, 6:-6, 2:-2].transpose(1, 2, 0), expected)
    np.testing.assert_array_equal(out[3], np.pad(np.ones((100, 150)), ((6, 6), (2, 2))))


def test_short_has_no_use_for_a_resize_and_leaves_a_picture_of_its_side_alone() -> None:
    settings = preprocessing(policy="short", size=(300, 300), resize=(400, 400))
    out, geometry = transform(PIXELS, settings, 1)
    assert geometry.resized == (300, 451)
    np.testing.assert_array_equal(out[:3].transpose(1, 2, 0), PIXELS)


@settings(max_examples=300, deadline=None)
@given(st.tuples(*[st.integers(1, 4000)] * 2), st.integers(1, 1000))
def test_the_short_side_is_met_exactly(image: tuple[int, int], side: int) -> None:
    expected = official.short_side(image, side)
    try:
        geometry = plan(image, preprocessing(policy="short", size=(side, side)), 1)
    except ImageError:
        # Pillow's intermediate picture, or the result.
        assert max(image[0], expected[0]) * expected[1] > DEFAULT_MAX_PIXELS
        return
    assert min(geometry.resized) == side
    assert geometry.resized == expected


# Elongated pictures


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        *(((1, 1), policy) for policy in ("squash", "crop", "fit", "short")),
        *(((1, 5000), policy) for policy in ("squash", "fit")),
        *(((5000, 1), policy) for policy in ("squash", "fit")),
        *[((1, 200), "crop"), ((200, 1), "crop")],
    ],
)
def test_tiny_and_elongated_pictures_are_read(image: tuple[int, int], policy: str) -> None:
    pixels = np.full((*image, 3), 77, np.uint8)
    out, geometry = transform(pixels, preprocessing(resize=(256, 256), policy=policy), 14)
    assert geometry.image == image
    assert (out[:3] == 77).all()
    assert out.nbytes < 4 * 2 * 224 * 224


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ((1, 5000), "crop"),
        ((1, 5000), "short"),
        ((100_000, 1), "crop"),
        ((100_000, 1), "short"),
        ((40_000_000, 1), "squash"),
    ],
)
def test_a_picture_too_elongated_to_resample_is_refused_without_its_memory(
    image: tuple[int, int], policy: str
) -> None:
    # Rows of the one pixel, again and again: an array that takes no memory.
    pixels = np.broadcast_to(np.uint8(7), (*image, 3))
    settings = preprocessing(size=(518, 518), policy=policy)
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match=f"accepted are {DEFAULT_MAX_PIXELS}") as info:
            transform(pixels, settings, 14)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(("resize", "resampled"), [(224, 100_000), (10, 4464)])
def test_an_explicit_size_that_is_too_large_is_refused(resize: int, resampled: int) -> None:
    settings = preprocessing(resize=(resize, resize))
    with pytest.raises(ImageError, match=f"{resampled}x{resampled} with 1000"):
        transform(PIXELS, settings, 1, size=(100_000, 100_000))


def test_pixels_of_another_type_are_refused() -> None:
    with pytest.raises(ImageError, match="array: is"):
        transform(PIXELS.astype(np.float32), preprocessing(), 14)  # type: ignore[arg-type]  # tested


def test_the_pixels_given_are_left_alone() -> None:
    pixels = PIXELS.copy()
    transform(pixels, preprocessing(), 14, size=(300, 451))
    np.testing.assert_array_equal(pixels, PIXELS)


def test_a_patch_of_the_input_shows_its_place_in_the_picture() -> None:
    # One bright spot, found in the input where the geometry says.
    pixels = np.zeros((300, 451, 3), np.uint8)
    pixels[196:204, 246:254] = 255
    for policy in ("squash", "crop", "fit", "short"):
        out, geometry = transform(pixels, preprocessing(resize=(256, 256), policy=policy), 14)
        (height, width), patch = geometry.grid, geometry.patch
        light = out[0].reshape(height, patch, width, patch).sum((1, 3), dtype=np.int64)
        brightest = np.unravel_index(light.argmax(), light.shape)
        assert geometry.image_to_patch(200, 250) == tuple(int(i) for i in brightest)


@pytest.mark.parametrize(
    ("text", "size"), [("480x640", (480, 640)), ("480X640", (480, 640)), ("224", (224, 224))]
)
def test_a_size_is_height_by_width_or_one_side(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "x", "480x", "x640", "0x640", "480x0", "-1x5", "1x2x3", "4.5", "480 640", "²"]
)
def test_a_size_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="accepted is HxW in pixels, such as 480x640, or one side"):
        parse_size(text)


def test_a_picture_above_the_readers_default_limit_is_transformed() -> None:
    pixels = np.zeros((9500, 9500, 3), np.uint8)  # read with a higher ImageLimits.max_pixels
    out, _ = transform(pixels, preprocessing(size=(28, 28)), 14)
    assert out.shape == (4, 28, 28)
