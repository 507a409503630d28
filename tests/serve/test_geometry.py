import json

import numpy as np
import pytest

from clsspec_serve.errors import UsageError
from clsspec_serve.geometry import Geometry

# 600x400 → 300x200, rows 20 to 270 kept, padded from 250x200 to 252x210 by (1, 5, 1, 5).
PADDED = Geometry(
    image=(600, 400),
    resized=(300, 200),
    crop=(20, 0, 250, 200),
    padding=(1, 5, 1, 5),
    input=(252, 210),
    patch=14,
    grid=(18, 15),
)
# 100x100 is shown inside of a 140x140 crop, black around it.
SMALL = Geometry(
    image=(100, 100),
    resized=(100, 100),
    crop=(-20, -20, 140, 140),
    padding=(0, 0, 0, 0),
    input=(140, 140),
    patch=14,
    grid=(10, 10),
)


def test_a_patch_centre_is_given_in_the_pictures_pixels() -> None:
    # Row 0: 7 pixels from the input's top, 6 from the crop's, 26 from the resized picture's.
    assert PADDED.patch_to_image(0, 0) == (52.0, 4.0)
    assert PADDED.patch_to_image(17, 14) == (528.0, 396.0)


def test_a_point_lies_in_the_patch_that_shows_it() -> None:
    assert PADDED.image_to_patch(40, 0) == (0, 0)
    # The first patch holds 13 rows of the crop; it ends at row 33 of 300, row 66 of 600.
    assert PADDED.image_to_patch(65.9, 0) == (0, 0)
    assert PADDED.image_to_patch(66, 0) == (1, 0)
    # 9 of its columns are picture, 5 padding.
    assert PADDED.image_to_patch(40, 17.9) == (0, 0)
    assert PADDED.image_to_patch(40, 18) == (0, 1)


def test_a_point_that_was_cropped_away_lies_in_no_patch() -> None:
    assert PADDED.image_to_patch(39.9, 200) is None
    assert PADDED.image_to_patch(539.9, 200) == (17, 7)
    assert PADDED.image_to_patch(540, 200) is None


@pytest.mark.parametrize("point", [(-0.1, 5), (5, -0.1), (100, 5), (5, 100)])
def test_a_point_outside_of_the_picture_lies_in_no_patch(point: tuple[float, float]) -> None:
    assert SMALL.image_to_patch(*point) is None


def test_a_picture_inside_of_a_larger_crop_is_found_where_it_is_shown() -> None:
    assert SMALL.image_to_patch(0, 0) == (1, 1)
    assert SMALL.patch_to_image(0, 0) == (-13.0, -13.0)


@pytest.mark.parametrize("geometry", [PADDED, SMALL])
def test_a_patch_centre_leads_back_to_its_patch(geometry: Geometry) -> None:
    inside = 0
    for row in range(geometry.grid[0]):
        for col in range(geometry.grid[1]):
            y, x = geometry.patch_to_image(row, col)
            if 0 <= y < geometry.image[0] and 0 <= x < geometry.image[1]:
                assert geometry.image_to_patch(y, x) == (row, col)
                inside += 1
    assert inside > 40


@pytest.mark.parametrize("patch", [(18, 0), (0, 15), (-1, 0)])
def test_a_patch_outside_of_the_grid_is_refused(patch: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="outside of the grid"):
        PADDED.patch_to_image(*patch)


def test_json_holds_the_whole_geometry() -> None:
    assert Geometry.from_dict(json.loads(json.dumps(PADDED.to_dict()))) == PADDED
    assert PADDED.to_dict()["crop"] == [20, 0, 250, 200]


@pytest.mark.parametrize(
    "change",
    [
        {"image": [600]},
        {"crop": [0, 0, 250, "wide"]},
        {"patch": None},
        {"scale": 2},
    ],
)
def test_other_keys_and_types_are_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"geometry has a wrong {next(iter(change))}"):
        Geometry.from_dict(PADDED.to_dict() | change)


@pytest.mark.parametrize(
    "change",
    [
        {"input": (252, 224)},
        {"grid": (18, 16)},
        {"crop": (20, 0, 249, 200)},
        {"padding": (1, 5, 2, 5)},
        {"padding": (-1, 5, 3, 5)},
        {"image": (0, 400)},
    ],
)
def test_a_geometry_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="geometry"):
        Geometry.from_dict(PADDED.to_dict() | change)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 40])
def test_pooled_cells_lie_where_their_patches_do(side: int) -> None:
    pooled = PADDED.pooled(side)
    assert pooled.grid == tuple(-(-length // side) for length in PADDED.grid)
    for row in range(PADDED.grid[0]):
        for column in range(PADDED.grid[1]):
            y, x = PADDED.patch_to_image(row, column)
            cell = pooled.image_to_patch(y, x)
            seen = PADDED.image_to_patch(y, x)
            assert cell == (None if seen is None else (row // side, column // side))
    whole = [length // side for length in PADDED.grid]
    if min(whole) > 0:
        corners = [PADDED.patch_to_image(0, 0), PADDED.patch_to_image(side - 1, side - 1)]
        assert pooled.patch_to_image(0, 0) == pytest.approx(np.mean(corners, axis=0))
    assert Geometry.from_dict(pooled.to_dict()) == pooled
