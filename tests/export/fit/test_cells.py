from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clsspec_export.fit.cells import at_cells
from clsspec_serve.geometry import Geometry
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.transform import plan, transform

PATCH = 14


def geometry(policy: str, picture: tuple[int, int], size: tuple[int, int]) -> Geometry:
    return plan(picture, preprocessing(policy, size), PATCH)


def preprocessing(policy: str, size: tuple[int, int]) -> Preprocessing:
    return Preprocessing(
        size=size, policy=policy, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1)
    )


@pytest.mark.parametrize("upsample", [1, 2, 7])
@pytest.mark.parametrize(
    ("policy", "picture", "size"),
    [
        ("squash", (60, 90), (56, 70)),
        ("fit", (61, 97), (84, 84)),
        ("short", (45, 80), (50, 50)),  # padded on both axes
        ("crop", (80, 45), (56, 56)),
        ("crop", (97, 45), (50, 50)),  # cropped and padded
    ],
)
def test_a_cell_has_the_label_of_the_pixel_below_its_centre(
    policy: str, picture: tuple[int, int], size: tuple[int, int], upsample: int
) -> None:
    own = geometry(policy, picture, size)
    labels = np.random.default_rng(0).integers(0, 250, picture, np.uint8)
    grid = (own.grid[0] * upsample, own.grid[1] * upsample)
    finer = replace(own, patch=PATCH // upsample, grid=grid)
    expected = np.full(grid, 255, np.uint8)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y, x = finer.patch_to_image(row, column)
            if finer.image_to_patch(y, x) == (row, column):
                expected[row, column] = labels[int(y), int(x)]
    found = at_cells(labels, own, upsample, 255)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)
    if upsample == 7:  # cells that are smaller than the padding
        assert (found == 255).any() == (size == (50, 50))


def test_where_a_crop_reaches_over_the_edges_there_is_no_label() -> None:
    own = Geometry((20, 28), (20, 28), (-4, 0, 28, 28), (0, 0, 0, 0), (28, 28), 14, (2, 2))
    found = at_cells(np.ones((20, 28), np.float32), own, 2, 0)
    np.testing.assert_array_equal(found[:, 0], [0, 1, 1, 0])


def test_labels_move_with_the_pixels_that_the_network_is_shown() -> None:
    """A picture that is its own label: nearest resampling takes the same pixels."""
    ids = np.random.default_rng(1).integers(0, 250, (56, 84), np.uint8)
    pixels = np.repeat(ids[..., None], 3, axis=2)
    shown, own = transform(pixels, preprocessing("squash", (28, 42)), PATCH)
    np.testing.assert_array_equal(at_cells(ids, own, PATCH, 255), shown[0])
