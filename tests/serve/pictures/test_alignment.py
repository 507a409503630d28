"""A patch lands on the pixels of the photograph that it shows."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray
from transforms import preprocessing

from clsspec_serve.geometry import Geometry
from clsspec_serve.pictures.alignment import DIMMED, enlarge, visible
from clsspec_serve.transform import transform

GEOMETRIES = {
    "padded": Geometry((60, 40), (30, 20), (0, 0, 30, 20), (6, 4, 6, 4), (42, 28), 14, (3, 2)),
    "cropped": Geometry((60, 90), (40, 60), (6, 16, 28, 28), (0, 0, 0, 0), (28, 28), 14, (2, 2)),
    "cropped and padded": Geometry(
        (600, 400), (300, 200), (20, 0, 250, 200), (1, 5, 1, 5), (252, 210), 14, (18, 15)
    ),
    "squashed": Geometry((50, 90), (42, 28), (0, 0, 42, 28), (0, 0, 0, 0), (42, 28), 14, (3, 2)),
    "smaller than the crop": Geometry(
        (100, 100), (100, 100), (-20, -20, 140, 140), (0, 0, 0, 0), (140, 140), 14, (10, 10)
    ),
}


def numbered(grid: tuple[int, int]) -> NDArray[np.uint8]:
    """Every patch says where it is: (row, column, 255)."""
    rows, columns = np.indices(grid)
    return np.stack([rows, columns, np.full(grid, 255)], axis=-1).astype(np.uint8)


def grey(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 100, np.uint8)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("scale", [1, 0.5, 1.7])
def test_every_pixel_has_the_colour_of_the_patch_that_shows_it(name: str, scale: float) -> None:
    geometry = GEOMETRIES[name]
    height, width = (round(side * scale) for side in geometry.image)
    found = enlarge(numbered(geometry.grid), geometry, grey(height, width))
    seen = 0
    for y in range(height):
        for x in range(width):
            at = geometry.image_to_patch(
                (y + 0.5) * geometry.image[0] / height, (x + 0.5) * geometry.image[1] / width
            )
            expected = [round(100 * DIMMED)] * 3 if at is None else [*at, 255]
            assert found[y, x].tolist() == expected
            seen += at is not None
    assert seen > 0
    assert (seen == height * width) == ("crop" not in name or "smaller" in name)


def test_a_patch_covers_its_own_pixels_by_hand() -> None:
    # 30x20 inside of 42x28: the first patch has 8 rows and 10 columns of it, the last ones too.
    found = enlarge(numbered((3, 2)), GEOMETRIES["padded"], grey(30, 20))
    assert found[:, 0, 0].tolist() == [0] * 8 + [1] * 14 + [2] * 8
    assert found[0, :, 1].tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize(
    ("policy", "size"),
    [("fit", None), ("squash", (70, 98)), ("crop", (75, 75)), ("crop", (90, 40))],
)
def test_patches_land_on_the_colours_that_the_network_saw(policy: str, size: object) -> None:
    photograph = skimage.data.astronaut()[:300, :420]
    own = preprocessing(size=(84, 84), policy="crop")
    shown, geometry = transform(photograph, own, 14, policy=policy, size=size)  # type: ignore[arg-type]  # drawn from a table
    inside = shown[3:].astype(float)
    blocks = (shown[:3] * inside).reshape(3, geometry.grid[0], 14, geometry.grid[1], 14)
    weights = inside.reshape(1, geometry.grid[0], 14, geometry.grid[1], 14).sum((2, 4))
    means = blocks.sum((2, 4)) / np.maximum(weights, 1)
    colours = np.rint(means.transpose(1, 2, 0)).astype(np.uint8)
    found = enlarge(colours, geometry, photograph)
    seen = np.array(
        [
            [geometry.image_to_patch(y + 0.5, x + 0.5) is not None for x in range(420)]
            for y in range(300)
        ]
    )
    # Squares of their own mean colour are closer to the photograph than when moved by a patch.
    error = np.abs(found[seen].astype(float) - photograph[seen]).mean()
    for axis in (0, 1):
        for step in (-1, 1):
            moved = enlarge(np.roll(colours, step, axis), geometry, photograph)
            assert error < 0.9 * np.abs(moved[seen].astype(float) - photograph[seen]).mean()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_smooth_colours_take_those_of_the_patches_at_their_centres(name: str) -> None:
    geometry = GEOMETRIES[name]
    ramp = np.indices(geometry.grid).sum(0)[..., None] * np.array([8, 4, 2]) + 20
    height, width = (side * 3 for side in geometry.image)
    found = enlarge(ramp.astype(np.uint8), geometry, grey(height, width), smooth=True)
    compared = 0
    # At the border there are no neighbours to interpolate between.
    for row in range(1, geometry.grid[0] - 1):
        for col in range(1, geometry.grid[1] - 1):
            y, x = geometry.patch_to_image(row, col)
            if 0 <= y < geometry.image[0] and 0 <= x < geometry.image[1]:
                centre = found[int(y * 3), int(x * 3)]
                assert np.abs(centre - ramp[row, col]).max() <= 2
                compared += 1
    assert compared > 0 or min(geometry.grid) < 3


def test_smooth_colours_lie_where_the_squares_lie() -> None:
    geometry = GEOMETRIES["cropped"]
    for smooth in (False, True):
        found = enlarge(numbered((2, 2)), geometry, grey(60, 90), smooth=smooth)
        rows, columns = np.nonzero(found[..., 2] == 255)
        # 6..34 of 40 rows are 9..51 of 60; 16..44 of 60 columns are 24..66 of 90.
        assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (9, 51, 24, 66)


def test_smooth_colours_are_the_patches_own_where_a_pixel_is_a_patch() -> None:
    geometry = Geometry((84, 70), (84, 70), (0, 0, 84, 70), (0, 0, 0, 0), (84, 70), 14, (6, 5))
    colours = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    found = enlarge(colours, geometry, grey(6, 5), smooth=True)
    np.testing.assert_array_equal(found, colours)


def test_smooth_colours_have_no_steps() -> None:
    geometry = Geometry((28, 42), (28, 42), (0, 0, 28, 42), (0, 0, 0, 0), (28, 42), 14, (2, 3))
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[:, 1:] = 200
    squares = enlarge(colours, geometry, grey(280, 420))
    smooth = enlarge(colours, geometry, grey(280, 420), smooth=True)
    assert np.diff(squares[..., 0].astype(int)).max() == 200
    assert np.diff(smooth[..., 0].astype(int)).max() < 10


def test_a_display_may_be_smaller_than_the_grid() -> None:
    geometry = GEOMETRIES["cropped and padded"]
    for smooth in (False, True):
        assert enlarge(numbered((18, 15)), geometry, grey(3, 1), smooth=smooth).shape == (3, 1, 3)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_patches_are_visible_when_they_show_some_of_the_picture(name: str) -> None:
    geometry = GEOMETRIES[name]
    fine = [np.linspace(0, side, 997, endpoint=False) for side in geometry.image]
    middle = [
        (geometry.crop[axis] + geometry.crop[axis + 2] / 2)
        * geometry.image[axis]
        / geometry.resized[axis]
        for axis in (0, 1)
    ]
    rows = {at[0] for y in fine[0] if (at := geometry.image_to_patch(y, middle[1]))}
    columns = {at[1] for x in fine[1] if (at := geometry.image_to_patch(middle[0], x))}
    found = visible(geometry)
    assert set(range(*found[0].indices(geometry.grid[0]))) == rows
    assert set(range(*found[1].indices(geometry.grid[1]))) == columns


def test_patches_of_padding_alone_are_not_visible() -> None:
    # 10 pixels within 140: only one or two patches of ten show them.
    crop = (-65, -60, 140, 140)
    geometry = Geometry((10, 20), (10, 20), crop, (0, 0, 0, 0), (140, 140), 14, (10, 10))
    assert visible(geometry) == (slice(4, 6), slice(4, 6))
