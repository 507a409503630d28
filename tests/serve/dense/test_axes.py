from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from clsspec_serve.dense.axes import bilinear_axis, picture_axis, stitch_axis, window_spans
from clsspec_serve.errors import UsageError

SIDES = [(1, 1), (1, 7), (5, 5), (2, 9), (37, 518), (9, 2), (73, 40), (6, 1), (285, 4000)]


def resized(samples: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Columns `(old, n)` resized to `(size, n)` by PyTorch, in float64."""
    image = torch.from_numpy(samples)[None, None]
    return interpolate(image, (size, samples.shape[1]), mode="bilinear")[0, 0].numpy()


@pytest.mark.parametrize(("old", "new"), SIDES)
def test_the_bilinear_matrix_is_pytorchs(old: int, new: int) -> None:
    np.testing.assert_allclose(bilinear_axis(old, new), resized(np.eye(old), new), atol=6e-8)


@pytest.mark.parametrize(
    ("length", "spans"),
    [
        (300, [(0, 300)]),
        (512, [(0, 512)]),
        (513, [(0, 512), (1, 513)]),
        (853, [(0, 512), (341, 853)]),
        (854, [(0, 512), (341, 853), (342, 854)]),
        (1024, [(0, 512), (341, 853), (512, 1024)]),
    ],
)
def test_windows_slide_as_in_mmsegmentation(length: int, spans: list[tuple[int, int]]) -> None:
    assert window_spans(length, 512, 341) == spans


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 700), st.data())
def test_windows_show_every_pixel_and_no_other(
    length: int, window: int, data: st.DataObject
) -> None:
    spans = window_spans(length, window, data.draw(st.integers(1, window)))
    seen = {pixel for start, stop in spans for pixel in range(start, stop)}
    assert seen == set(range(length))
    assert all(stop - start == min(window, length) for start, stop in spans)


@pytest.mark.parametrize("length", [60, 100, 131, 169, 170])
def test_stitching_averages_the_resized_windows(length: int) -> None:
    spans = window_spans(length, 100, 35)
    cells = [8 + i % 2 for i in range(len(spans))]
    grids = [np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate(cells)]
    total, count = np.zeros((length, 3)), np.zeros((length, 1))
    for grid, (start, stop) in zip(grids, spans, strict=True):
        total[start:stop] += resized(grid, stop - start)
        count[start:stop] += 1
    matrix = stitch_axis(spans, cells, length)
    assert matrix.dtype == np.float32
    np.testing.assert_allclose(matrix @ np.concatenate(grids), total / count, atol=1e-6)


def test_windows_that_leave_a_pixel_out_are_refused() -> None:
    with pytest.raises(UsageError, match="leave out pixel 40 of 100"):
        stitch_axis([(0, 40), (41, 100)], [3, 4], 100)


@pytest.mark.parametrize(("level", "picture"), SIDES)
def test_the_whole_picture_is_a_bilinear_resize(level: int, picture: int) -> None:
    seen, matrix = picture_axis(picture, 61, 0, 61, np.eye(level, dtype=np.float32))
    assert seen == slice(0, picture)
    np.testing.assert_array_equal(matrix, bilinear_axis(level, picture))


@pytest.mark.parametrize(("level", "picture"), SIDES)
def test_two_steps_are_pytorchs_two(level: int, picture: int) -> None:
    _, matrix = picture_axis(picture, level, 0, level, bilinear_axis(7, level))
    assert matrix.dtype == np.float32
    twice = resized(resized(np.eye(7), level), picture)
    np.testing.assert_allclose(matrix, twice, atol=2e-7)


def test_a_picture_that_was_cropped_is_seen_from_centre_to_centre() -> None:
    # 10 pixels were resized to 20; what is kept, 7 to 13, holds the centres 7 (3.5 * 2), 9 and 11.
    seen, matrix = picture_axis(10, 20, 7, 6, np.eye(3, dtype=np.float32))
    assert seen == slice(3, 6)
    # Pixel 3 lies on the edge; pixel 4, at 9, 2 / 6 along, between the centres 1 / 6 and 3 / 6.
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]], atol=1e-7)


def test_a_centre_on_the_far_edge_is_not_seen() -> None:
    inner = np.eye(3, dtype=np.float32)
    assert picture_axis(10, 20, 7, 4, inner)[0] == slice(3, 5)
    assert picture_axis(10, 20, 7, 5, inner)[0] == slice(3, 6)


def test_a_picture_inside_of_what_is_kept_is_seen_whole() -> None:
    # 4 pixels in the middle of 8, which 8 samples show one by one.
    seen, matrix = picture_axis(4, 4, -2, 8, np.eye(8, dtype=np.float32))
    assert seen == slice(0, 4)
    np.testing.assert_array_equal(matrix, np.eye(8)[2:6])


def test_nothing_is_seen_where_no_centre_was_kept() -> None:
    seen, matrix = picture_axis(2, 100, 30, 10, bilinear_axis(3, 5))
    assert seen == slice(0, 0)
    assert matrix.shape == (0, 3)


@settings(deadline=None)
@given(
    st.integers(1, 200), st.integers(1, 200), st.integers(-50, 150), st.integers(1, 200),
    st.integers(1, 60),
)  # fmt: skip
def test_every_pixel_mixes_at_most_two_neighbours(
    picture: int, resized: int, offset: int, kept: int, level: int
) -> None:
    inner = np.eye(level, dtype=np.float32)
    seen, matrix = picture_axis(picture, resized, offset, kept, inner)
    assert len(matrix) == seen.stop - seen.start
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=2e-7)
    for row in matrix:
        used = np.flatnonzero(row)
        assert used[-1] - used[0] <= 1
