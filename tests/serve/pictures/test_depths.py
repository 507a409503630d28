from __future__ import annotations

import io
from fractions import Fraction

import cmap
import imageio.v3 as imageio
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.errors import UsageError
from clsspec_serve.pictures.colormap import SOME, colour, colour_levels
from clsspec_serve.pictures.depths import colour_depth, depth_png, depth_range, depth_scale

METRES = np.random.default_rng(0).uniform(0.001, 80, (600, 7)).astype(np.float32)


def stored(metres: np.float32, scale: int) -> int:
    """The nearest value in exact arithmetic."""
    if np.isnan(metres):
        return 0
    exact = Fraction(float(metres)) * scale
    return min(max(round(exact), 1), 65535)


@pytest.mark.parametrize(("maximum", "scale"), [(10, 1000), (65.4, 1000), (65.5, 256), (80, 256)])
def test_depths_are_rounded_to_the_nearest_value(maximum: float, scale: int) -> None:
    metres = METRES.copy()
    metres[3, 2], metres[599, 6] = np.nan, np.nan
    content = depth_png(metres, maximum)
    expected = [[stored(value, scale) for value in row] for row in metres]
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.mode == "I;16"
        np.testing.assert_array_equal(np.asarray(picture), expected)
    independent = imageio.imread(content)
    assert independent.dtype == np.uint16
    np.testing.assert_array_equal(independent, expected)
    # 16 bits, grey.
    assert content[24:26] == bytes([16, 0])


def test_values_by_hand() -> None:
    metres = np.array([[0, 0.0001, 1.2344, 1.2346, 65.535, 65.6, 70, np.inf, np.nan]], np.float32)
    with Image.open(io.BytesIO(depth_png(metres, 10))) as picture:
        values = np.asarray(picture).ravel().tolist()
    assert values == [1, 1, 1234, 1235, 65535, 65535, 65535, 65535, 0]
    with Image.open(io.BytesIO(depth_png(metres[:, 4:], 80))) as picture:
        assert np.asarray(picture).ravel().tolist() == [16777, 16794, 17920, 65535, 0]


@pytest.mark.parametrize(
    ("maximum", "scale", "unit"), [(10, "1000", "millimetre"), (80, "256", "1/256 metre")]
)
def test_the_scale_stands_in_the_pngs_text(maximum: float, scale: str, unit: str) -> None:
    with Image.open(io.BytesIO(depth_png(METRES, maximum))) as picture:
        text = picture.text
        values = np.asarray(picture).astype(float)
    assert text == {
        "depth_scale": scale,
        "depth_unit": unit,
        "Comment": f"metres = value / {scale}; 0 is no value",
    }
    inside = values < 65535
    assert inside.sum() > 1000
    error = np.abs(values / int(text["depth_scale"]) - METRES)[inside]
    assert error.max() <= 0.5 / int(scale) + 1e-9


@pytest.mark.parametrize("maximum", [256, 300, 0, -1, float("nan"), float("inf")])
def test_a_range_that_a_png_cannot_hold_is_refused(maximum: float) -> None:
    with pytest.raises(UsageError, match=r"a depth PNG reaches 256\.00 m, .*; write a \.npy"):
        depth_png(METRES, maximum)


def test_the_farthest_range_is_kittis() -> None:
    assert depth_scale(255.9) == 256


@pytest.mark.parametrize("metres", [METRES[None], METRES[:0], METRES.astype(np.uint8)])
def test_depths_of_another_shape_or_type_are_refused(metres: NDArray[np.float32]) -> None:
    with pytest.raises(UsageError, match="accepted is \\(H, W\\) of floats, not empty"):
        depth_png(metres, 10)
    with pytest.raises(UsageError, match="accepted is \\(H, W\\) of floats, not empty"):
        colour_depth(metres)


@pytest.mark.parametrize("name", ["magma_r", "turbo", "tab10"])
def test_depths_take_the_colours_between_the_given_ends(name: str) -> None:
    metres = METRES.copy()
    metres[0, 0] = np.nan
    found = colour_depth(metres, name, 5, 60)
    scale = cmap.Colormap(name)
    for y in range(0, 600, 7):
        for x in range(7):
            if np.isnan(metres[y, x]):
                assert found[y, x].tolist() == [0, 0, 0]
                continue
            level = min(max(int((float(metres[y, x]) - 5) / 55 * 256), 0), 255)
            exact = [255 * channel for channel in list(scale(level / 255))[:3]]
            assert np.abs(found[y, x] - np.array(exact)).max() <= 0.5 + 1e-9


def test_colours_run_over_the_pictures_own_range_unless_given() -> None:
    metres = np.arange(1001, dtype=np.float32)[None] / 100
    metres = np.concatenate([metres, np.full_like(metres, np.nan)])
    low, high = depth_range(metres)
    assert (low, high) == (pytest.approx(0.2), pytest.approx(9.8))
    np.testing.assert_array_equal(colour_depth(metres), colour_depth(metres, "magma_r", low, high))
    np.testing.assert_array_equal(
        colour_depth(metres, "turbo", 0), colour_depth(metres, "turbo", 0, high)
    )
    np.testing.assert_array_equal(
        colour_depth(metres, "turbo", None, 3), colour_depth(metres, "turbo", low, 3)
    )


def test_near_is_bright_and_nothing_is_black() -> None:
    near, far, nothing = colour_depth(np.array([[1, 9, np.nan]], np.float32)).astype(int)[0]
    assert near.sum() > 600 > 100 > far.sum()
    assert nothing.tolist() == [0, 0, 0]


def test_one_depth_takes_the_middle_and_none_is_black() -> None:
    found = colour_depth(np.full((2, 2), 3, np.float32), "viridis")
    assert {tuple(pixel) for row in found.tolist() for pixel in row} == {
        tuple(colour_levels("viridis")[128].tolist())
    }
    assert np.all(colour_depth(np.full((2, 2), np.nan, np.float32)) == 0)


def test_a_range_that_is_none_is_refused() -> None:
    for low, high in ((5, 4), (float("nan"), 1), (0, float("inf"))):
        with pytest.raises(UsageError, match="accepted is a finite range, upwards"):
            colour(METRES, "turbo", low, high)


@pytest.mark.parametrize("name", ["", "turb", "a\nb", "#ff0000", "viridis_r_r"])
def test_an_unknown_colour_map_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        colour_depth(METRES, name)
    message = str(refused.value)
    assert message.startswith(f"colour map {name!r}; accepted are magma_r, inferno,")
    assert "Catalog()" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [*SOME, "tab10", "cet_l3"])
def test_every_colour_map_has_256_levels_from_end_to_end(name: str) -> None:
    levels = colour_levels(name)
    assert (levels.shape, levels.dtype) == ((256, 3), np.uint8)
    ends = [list(cmap.Colormap(name)(float(end)))[:3] for end in (0, 1)]
    np.testing.assert_allclose(levels[[0, -1]], np.array(ends) * 255, atol=0.5)
