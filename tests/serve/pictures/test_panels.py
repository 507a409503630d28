from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import skimage.data
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError
from clsspec_serve.pictures.panels import Panel, check_size, fitted, grid, ring, wrapped

RED, BLUE = (250, 0, 0), (0, 0, 250)


def plain(height: int, width: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    return np.full((height, width, 3), colour, np.uint8)


def box(sheet: NDArray[np.uint8], colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the pixels of a colour, which fill that box."""
    rows, columns = np.nonzero((sheet == colour).all(2))
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    assert rows.size == height * width
    return int(top), int(left), int(height), int(width)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((4000, 3000), (480, 360)),
        ((28, 42), (480, 720)),
        ((100, 3000), (48, 1440)),
        ((3000, 1), (480, 1)),
    ],
)
def test_a_picture_has_the_height_and_its_own_proportions(
    sides: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fitted(plain(*sides, RED), 480).shape == (*expected, 3)


def test_a_reduced_picture_is_the_mean_of_what_it_covers() -> None:
    photograph = skimage.data.astronaut()
    means = photograph.reshape(64, 8, 64, 8, 3).mean((1, 3))
    found = fitted(photograph, 64).astype(float)
    # A sharper filter than the mean, in the same place.
    assert np.abs(found - means).mean() < 5
    for axis in (0, 1):
        assert np.abs(np.roll(found, 1, axis) - means).mean() > 10


def test_panels_lie_in_rows_and_columns_and_do_not_touch() -> None:
    one = Panel("", plain(240, 300, RED))
    two = Panel("", plain(240, 200, BLUE))
    sheet = grid([[one, two]])
    first, second = box(sheet, RED), box(sheet, BLUE)
    assert first[2:] == (240, 300)
    assert second[2:] == (240, 200)
    assert first[0] == second[0]
    assert second[1] > first[1] + 300
    below = grid([[two], [one]])
    assert box(below, BLUE)[0] + 240 < box(below, RED)[0]
    assert box(below, BLUE)[1] == box(below, RED)[1]
    # Nothing but paper around them.
    assert set(np.unique(sheet[~((sheet == RED).all(2) | (sheet == BLUE).all(2))])) == {255}


def test_columns_are_as_wide_as_their_widest_picture() -> None:
    wide, narrow = Panel("", plain(240, 400, RED)), Panel("", plain(240, 150, RED))
    mark = Panel("", plain(240, 200, BLUE))
    alone = box(grid([[wide, mark]]), BLUE)[1]
    assert box(grid([[wide], [narrow, mark]]), BLUE)[1] == alone
    assert box(grid([[narrow, mark]]), BLUE)[1] < alone


def test_a_title_stands_above_its_own_panel() -> None:
    one, two = plain(240, 300, RED), plain(240, 300, BLUE)
    empty = grid([[Panel("", one), Panel("", two)]])
    titled = grid([[Panel("", one), Panel("PCA", two)]])
    rows, columns = np.nonzero((empty != titled).any(2))
    top, left, _, width = box(empty, BLUE)
    assert rows.size > 20
    assert 0 <= rows.min() < rows.max() < top
    assert left <= columns.min() < columns.max() < left + width


@pytest.mark.parametrize("title", ["x" * 500, "p\nq\n" * 5, "a\x00b", "\udcff.jpg", "日本語.png"])
def test_no_title_leaves_its_panel_or_fails(title: str) -> None:
    above, one, two = (Panel("", plain(240, 200, colour)) for colour in ((0, 250, 0), RED, BLUE))
    empty = grid([[above], [one, two]])
    titled = grid([[above], [Panel(title, one.picture), two]])
    rows, columns = np.nonzero((empty != titled).any(2))
    top, left, _, width = box(empty, RED)
    assert box(empty, (0, 250, 0))[0] + 240 < rows.min() < rows.max() < top
    assert left <= columns.min() < columns.max() < left + width


def test_a_legend_shows_its_colours_in_order_as_far_as_there_is_room() -> None:
    colours = [(each, 9, 99) for each in range(0, 250, 25)]
    legend = tuple((colour, f"class {each}") for each, colour in enumerate(colours))
    sheet = grid([[Panel("Mask", plain(240, 300, RED), legend), Panel("", plain(240, 300, BLUE))]])
    shown = [colour for colour in colours if (sheet == colour).all(2).any()]
    assert 2 <= len(shown) < len(colours)
    assert shown == colours[: len(shown)]
    boxes = [box(sheet, colour) for colour in shown]
    assert all(one[1] + one[3] < two[1] for one, two in pairwise(boxes))
    # The text of the last one ends before the next panel.
    left = box(sheet, RED)[1] + 300
    right = box(sheet, BLUE)[1]
    assert np.all(sheet[:, left:right] == 255)


def test_a_ring_lies_around_its_point_and_leaves_it_free() -> None:
    picture = plain(200, 300, RED)
    before = picture.copy()
    found = ring(picture, 60.5, 120.5)
    rows, columns = np.nonzero((found != picture).any(2))
    np.testing.assert_array_equal(picture, before)
    assert (rows.min() + rows.max() + 1) / 2 == pytest.approx(60.5, abs=0.5)
    assert (columns.min() + columns.max() + 1) / 2 == pytest.approx(120.5, abs=0.5)
    assert np.all(found[58:63, 118:123] == RED)
    assert 10 < np.ptp(rows) < 30
    # Bright on dark and dark on bright.
    assert (found > 230).all(2).any()
    assert (found < 100).all(2).any()


@pytest.mark.parametrize(("y", "x"), [(0, 0), (199.9, 299.9), (0, 150)])
def test_a_ring_at_the_edge_is_cut_off(y: float, x: float) -> None:
    found = ring(plain(200, 300, RED), y, x)
    assert found.shape == (200, 300, 3)
    assert (found > 230).all(2).any()


@pytest.mark.parametrize(
    ("count", "lines"), [(1, [1]), (2, [2]), (3, [3]), (4, [2, 2]), (5, [3, 2]), (6, [3, 3])]
)
def test_one_pictures_panels_are_wrapped(count: int, lines: list[int]) -> None:
    panels = [Panel(str(each), plain(2, 2, RED)) for each in range(count)]
    rows = wrapped(panels)
    assert [len(row) for row in rows] == lines
    assert [panel for row in rows for panel in row] == panels


def test_a_picture_that_becomes_too_large_is_refused() -> None:
    tall = Panel("", plain(1000, 3000, RED))
    rows = [[tall] * 3] * 8
    check_size(rows)
    with pytest.raises(UsageError, match="take a lower --height, or a folder"):
        grid([*rows, rows[0]])
