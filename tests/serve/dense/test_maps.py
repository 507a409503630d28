"""Masks and depth from answers without a network, against the official steps in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import official_inference as official
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from transforms import preprocessing

from clsspec_serve.choices import Policy
from clsspec_serve.dense.maps import depth_map, segment_map
from clsspec_serve.dense.views import Tiling, tile
from clsspec_serve.errors import EngineError
from clsspec_serve.geometry import Geometry
from clsspec_serve.transform import plan

Answers = list[NDArray[np.float32]]
PATCH = 14


def answers(
    geometry: Geometry, tiling: Tiling, last: tuple[int, ...], upsample: int = 1
) -> Answers:
    """Random ones for the views, `(h, w, *last)`."""
    rng = np.random.default_rng(sum(geometry.image))
    spans = tiling.rows[0], tiling.columns[0]
    grid = [-(-(stop - start) // PATCH) * upsample for start, stop in spans]
    return [rng.standard_normal((*grid, *last)).astype(np.float32) * 3 for _ in range(tiling.views)]


def given_in_turn(values: Answers) -> official.Network:
    """A network that answers with these, whatever it is shown."""
    left: Iterator[NDArray[np.float32]] = iter(values)

    def network(_: Tensor) -> Tensor:
        value = torch.from_numpy(next(left)).double()
        return (value if value.ndim == 3 else value[..., None]).permute(2, 0, 1)[None]

    return network


def nothing(geometry: Geometry) -> Tensor:
    """A picture whose pixels do not matter."""
    return torch.zeros(1, 3, *geometry.resized, dtype=torch.float64)


def planned(image: tuple[int, int], size: tuple[int, int], policy: Policy) -> Geometry:
    return plan(image, preprocessing(size=size, policy=policy), PATCH)


def assert_wins(found: NDArray[np.generic], values: Tensor, rounding: float) -> None:
    """Each pixel's class has the largest value, but where another's is as large up to rounding."""
    assert found.shape == values.shape[1:]
    winner = torch.from_numpy(found.astype(np.int64))[None]
    behind = values.amax(0) - values.gather(0, winner)[0]
    assert behind.max() <= rounding
    assert (behind > 0).float().mean() < 1e-3


WHOLE = None
SHOWN = [
    # picture, input, policy, (window, stride)
    ((375, 500), (512, 512), "short", (512, 341)),
    ((500, 375), (512, 512), "short", (512, 341)),
    ((333, 1100), (512, 512), "short", (512, 341)),
    ((230, 310), (100, 100), "short", (512, 341)),
    ((131, 97), (101, 101), "short", (50, 33)),
    ((131, 97), (101, 101), "short", (29, 29)),
    ((60, 131), (33, 33), "short", (33, 20)),
    ((131, 97), (101, 101), "short", WHOLE),
    ((97, 200), (84, 98), "squash", WHOLE),
    ((97, 200), (84, 98), "squash", (60, 40)),
    ((300, 133), (98, 98), "fit", WHOLE),
    ((1, 1), (100, 100), "squash", WHOLE),
    ((1, 9), (30, 30), "short", (20, 15)),
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("image", "size", "policy", "windows"), SHOWN)
def test_a_mask_is_that_of_the_official_steps(
    image: tuple[int, int],
    size: tuple[int, int],
    policy: Policy,
    windows: tuple[int, int] | None,
    flip: bool,
) -> None:
    geometry = planned(image, size, policy)
    tiling = tile(geometry, *(windows or (None, None)), flip)
    logits = answers(geometry, tiling, (11,))
    network = given_in_turn(logits)
    values = official.segmentation(nothing(geometry), network, PATCH, image, windows, flip=flip)
    found = segment_map(logits, tiling, geometry)
    assert found.dtype == np.uint8
    assert_wins(found, values, 1e-6 if flip else 2e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("upsample", [1, 4])
@pytest.mark.parametrize(("image", "size", "policy", "windows"), SHOWN)
def test_depth_is_that_of_the_official_steps(
    image: tuple[int, int],
    size: tuple[int, int],
    policy: Policy,
    windows: tuple[int, int] | None,
    flip: bool,
    upsample: int,
) -> None:
    geometry = planned(image, size, policy)
    tiling = tile(geometry, *(windows or (None, None)), flip)
    metres = answers(geometry, tiling, (), upsample)
    if tiling.views == 1 + flip:
        # A window that holds the whole picture is the whole picture.
        windows = None
    network = given_in_turn(metres)
    expected = official.depth(nothing(geometry), network, PATCH, image, windows, flip=flip)
    found = depth_map(metres, tiling, geometry)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def shown_by_crop(geometry: Geometry) -> NDArray[np.bool_]:
    """The pixels whose centres lie inside of what was kept, in exact arithmetic."""
    axes = []
    for axis in (0, 1):
        start, side = geometry.crop[axis], geometry.crop[axis + 2]
        scale = Fraction(geometry.resized[axis], geometry.image[axis])
        centres = [(pixel + Fraction(1, 2)) * scale for pixel in range(geometry.image[axis])]
        axes.append([start <= centre < start + side for centre in centres])
    return np.logical_and.outer(*axes)


CROPS = [
    (image, resize, size)
    for image in [(100, 150), (150, 100), (97, 98), (3, 5), (5, 3), (1, 4), (20, 20)]
    for resize, size in [((64, 64), (64, 64)), ((73, 73), (64, 64)), ((80, 100), (60, 70))]
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("windows", [None, (40, 30)])
@pytest.mark.parametrize(("image", "resize", "size"), CROPS)
def test_what_was_cropped_away_is_void_and_nothing_else(
    image: tuple[int, int],
    resize: tuple[int, int],
    size: tuple[int, int],
    windows: tuple[int, int] | None,
    flip: bool,
) -> None:
    settings = preprocessing(size=size, resize=resize, policy="crop")
    geometry = plan(image, settings, PATCH)
    tiling = tile(geometry, *(windows or (None, None)), flip)
    expected = ~shown_by_crop(geometry)
    mask = segment_map(answers(geometry, tiling, (5,)), tiling, geometry)
    metres = depth_map(answers(geometry, tiling, ()), tiling, geometry)
    assert mask.shape == metres.shape == image
    np.testing.assert_array_equal(mask == 255, expected)
    np.testing.assert_array_equal(np.isnan(metres), expected)


def test_the_middle_of_a_crop_lies_where_it_does_in_the_picture() -> None:
    # 8 x 16 pixels, enlarged 14 times; the 112 x 112 in the middle are 8 x 8 patches, one a pixel.
    geometry = plan((8, 16), preprocessing(size=(112, 112), policy="crop"), PATCH)
    assert geometry.crop == (0, 56, 112, 112)
    tiling = tile(geometry, None, None, False)
    (metres,) = answers(geometry, tiling, ())
    classes = np.random.default_rng(0).integers(0, 7, (8, 8))
    logits = np.eye(7, dtype=np.float32)[classes]
    np.testing.assert_allclose(
        depth_map([metres], tiling, geometry)[:, 4:12], metres, rtol=1e-6, atol=1e-6
    )
    found = segment_map([logits], tiling, geometry)
    np.testing.assert_array_equal(found[:, 4:12], classes)
    assert (found[:, :4] == 255).all()
    assert (found[:, 12:] == 255).all()


def test_of_a_picture_inside_of_a_black_border_the_border_is_left_out() -> None:
    # 42 x 28 pixels in the middle of 70 x 70; patches of 14, so that rows fall on patches.
    settings = preprocessing(size=(70, 70), resize=(28, 28), policy="crop")
    geometry = plan((42, 28), settings, PATCH)
    assert geometry.resized == (42, 28)
    assert geometry.crop == (-14, -21, 70, 70)
    tiling = tile(geometry, None, None, False)
    (metres,) = answers(geometry, tiling, ())
    whole = official.resized(torch.from_numpy(metres)[None, None].double(), (70, 70))[0, 0]
    found = depth_map([metres], tiling, geometry)
    np.testing.assert_allclose(found, whole[14:56, 21:49], atol=1e-6)
    (logits,) = answers(geometry, tiling, (6,))
    values = official.resized(torch.from_numpy(logits).permute(2, 0, 1)[None].double(), (70, 70))[0]
    assert_wins(segment_map([logits], tiling, geometry), values[:, 14:56, 21:49], 1e-5)


@pytest.mark.parametrize(("classes", "dtype", "void"), [(255, "u1", 255), (256, "u2", 65535)])
def test_void_is_the_largest_number_of_the_ids_type(classes: int, dtype: str, void: int) -> None:
    geometry = planned((20, 60), (28, 28), "crop")
    tiling = tile(geometry, None, None, False)
    found = segment_map(answers(geometry, tiling, (classes,)), tiling, geometry)
    assert found.dtype == dtype
    assert (found[:, :20] == void).all()
    assert (found[:, 20:40] < classes).all()


def test_a_picture_of_which_no_pixel_was_kept_is_all_void() -> None:
    # 1 x 2 pixels become 256 x 512, whose 224 in the middle hold neither pixel's centre.
    settings = preprocessing(size=(224, 224), resize=(256, 256), policy="crop")
    geometry = plan((1, 2), settings, PATCH)
    for flip in (False, True):
        tiling = tile(geometry, None, None, flip)
        for classes, void in ((3, 255), (300, 65535)):
            logits = answers(geometry, tiling, (classes,))
            np.testing.assert_array_equal(segment_map(logits, tiling, geometry), [[void, void]])
        metres = depth_map(answers(geometry, tiling, ()), tiling, geometry)
        assert metres.dtype == np.float32
        np.testing.assert_array_equal(metres, [[np.nan, np.nan]])


def test_answers_that_are_not_finite_are_refused() -> None:
    geometry = planned((20, 60), (28, 28), "squash")
    tiling = tile(geometry, 20, 20, True)
    metres, logits = answers(geometry, tiling, ()), answers(geometry, tiling, (3,))
    metres[-1][0, 0] = logits[-1][0, 0, 0] = np.nan
    with pytest.raises(EngineError, match="not finite"):
        depth_map(metres, tiling, geometry)
    with pytest.raises(EngineError, match="finite numbers"):
        segment_map(logits, tiling, geometry)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(1, 70),
    st.integers(1, 80),
    st.booleans(),
    st.data(),
)
def test_any_picture_in_any_windows_is_that_of_the_official_steps(
    image: tuple[int, int], side: int, window: int, flip: bool, data: st.DataObject
) -> None:
    # Fewer windows than pixels, and no picture of which a side is enlarged beyond measure.
    stride = data.draw(st.integers(-(-window // 4), window))
    image = (max(image[0], image[1] // 8), max(image[1], image[0] // 8))
    geometry = planned(image, (side, side), "short")
    assert geometry.resized == official.short_side(image, side)
    tiling = tile(geometry, window, stride, flip)
    if tiling.views > 500:
        return
    logits = answers(geometry, tiling, (4,))
    values = official.segmentation(
        nothing(geometry), given_in_turn(logits), PATCH, image, (window, stride), flip=flip
    )
    found = torch.from_numpy(segment_map(logits, tiling, geometry).astype(np.int64))[None]
    assert (values.amax(0) - values.gather(0, found)[0]).max() <= 2e-5
