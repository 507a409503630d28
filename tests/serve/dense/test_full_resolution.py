from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from clsspec_serve.dense import blocks, candidates
from clsspec_serve.dense.axes import bilinear_axis, stitch_axis, window_spans
from clsspec_serve.dense.candidates import View
from clsspec_serve.dense.full_resolution import argmax_map, argmax_of_mean_softmax, resize_map
from clsspec_serve.errors import EngineError, UsageError

Logits = NDArray[np.float32]


def random(height: int, width: int, classes: int, seed: int = 0) -> Logits:
    """Nothing to do with each other: there is next to nothing to leave out."""
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((height, width, classes), dtype=np.float32)


def smooth(height: int, width: int, classes: int, seed: int = 0) -> Logits:
    """As of a trained head: regions with few likely classes, and some noise in every patch."""
    coarse = torch.from_numpy(random(4, 5, classes, seed)).permute(2, 0, 1)[None]
    field = interpolate(coarse, (height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
    likely = random(1, 1, classes, seed + 1)
    return np.float32(1.5) * field + likely + random(height, width, classes, seed + 2) / 8


def enlarged(logits: Logits, *sizes: tuple[int, int]) -> Tensor:
    """`(K, H, W)` by PyTorch in float64, through all sizes."""
    values = torch.from_numpy(logits).double().permute(2, 0, 1)[None]
    for size in sizes:
        values = interpolate(values, size, mode="bilinear", align_corners=False)
    return values[0]


def axes(logits: Logits, *sizes: tuple[int, int]) -> tuple[Logits, Logits]:
    """The matrices of the same."""
    rows, columns = (np.eye(side, dtype=np.float32) for side in logits.shape[:2])
    for height, width in sizes:
        rows = bilinear_axis(len(rows), height) @ rows
        columns = bilinear_axis(len(columns), width) @ columns
    return rows, columns


def assert_wins(found: NDArray[np.generic], values: Tensor, rounding: float) -> None:
    """Each pixel's class has the largest value, but where another's is as large up to rounding."""
    winner = torch.from_numpy(found.astype(np.int64))[None]
    behind = values.amax(0) - values.gather(0, winner)[0]
    assert behind.max() <= rounding
    # Such pixels are rare, so that this is about the winners and not about the rounding.
    assert (behind > 0).float().mean() < 1e-3


def unpruned(monkeypatch: pytest.MonkeyPatch, views: Sequence[View]) -> NDArray[np.generic]:
    """The map with all classes computed at all pixels."""
    with monkeypatch.context() as patch:
        patch.setattr(candidates, "_rounding", lambda rows, columns: np.inf)
        return argmax_map(*views[0]) if len(views) == 1 else argmax_of_mean_softmax(views)


SHAPES = [
    ((37, 49), [(300, 401)]),
    ((5, 4), [(333, 90)]),
    ((1, 6), [(40, 700)]),
    ((40, 30), [(23, 41)]),
    ((7, 9), [(98, 126), (211, 333)]),
    ((20, 15), [(280, 210), (97, 61)]),
    ((2, 3), [(28, 42), (600, 500)]),
]


@pytest.mark.parametrize("fixture", [smooth, random])
@pytest.mark.parametrize(("grid", "sizes"), SHAPES)
def test_the_largest_of_pytorchs_values_wins(grid, sizes, fixture) -> None:  # type: ignore[no-untyped-def]
    logits = fixture(*grid, 30)
    found = argmax_map(logits, *axes(logits, *sizes))
    assert found.shape == sizes[-1]
    assert_wins(found, enlarged(logits, *sizes), 1e-5)


@pytest.mark.parametrize("fixture", [smooth, random])
@pytest.mark.parametrize(("grid", "sizes"), SHAPES)
def test_what_is_left_out_changes_nothing(grid, sizes, fixture, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    # Whole numbers bring exact ties about.
    for logits in (fixture(*grid, 12), np.round(fixture(*grid, 12))):
        view = (logits, *axes(logits, *sizes))
        np.testing.assert_array_equal(argmax_map(*view), unpruned(monkeypatch, [view]))


@pytest.mark.parametrize("sizes", [[(384, 512)], [(384, 512), (768, 1024)]])
def test_classes_that_differ_by_rounding_are_not_left_out(sizes, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    # Weights that are exact, so that nothing but the rounding of values stands in the way.
    same = 1000 * random(24, 32, 1)
    logits = same + random(24, 32, 6, 1) * np.float32(2e-5)
    view = (logits, *axes(logits, *sizes))
    np.testing.assert_array_equal(argmax_map(*view), unpruned(monkeypatch, [view]))


def test_weights_that_bend_inside_of_a_piece_are_allowed_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "BEND", 9)
    logits = random(7, 9, 30)
    matrices = axes(logits, (28, 36), (211, 333))
    assert_wins(argmax_map(logits, *matrices), enlarged(logits, (28, 36), (211, 333)), 1e-5)


@pytest.mark.parametrize("sizes", [[(600, 800)], [(518, 686), (600, 800)], [(74, 98), (600, 800)]])
def test_most_is_left_out_where_few_classes_are_likely(sizes, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    computed = []
    values = candidates.Candidates.values

    def counted(self, view, pairs, classes=None):  # type: ignore[no-untyped-def]
        computed.append(len(pairs.row) * 64)
        return values(self, view, pairs, classes)

    monkeypatch.setattr(candidates.Candidates, "values", counted)
    logits = smooth(37, 49, 150)
    argmax_map(logits, *axes(logits, *sizes))
    assert 0 < sum(computed) < 600 * 800


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.integers(1, 9),
    st.integers(0, 99),
    st.booleans(),
)
def test_any_small_picture_is_pytorchs(
    grid: tuple[int, int], size: tuple[int, int], classes: int, seed: int, mirrored: bool
) -> None:
    logits = random(*grid, classes, seed)
    rows, columns = axes(logits, size)
    values = enlarged(logits, size)
    if mirrored:
        columns, values = columns[::-1], values.flip(2)
    winner = torch.from_numpy(argmax_map(logits, rows, columns).astype(np.int64))[None]
    assert (values.amax(0) - values.gather(0, winner)[0]).max() <= 1e-5


@pytest.mark.parametrize(
    ("classes", "dtype"), [(1, "u1"), (2, "u1"), (255, "u1"), (256, "u2"), (300, "u2")]
)
def test_the_types_largest_number_is_no_class(classes: int, dtype: str) -> None:
    logits = random(4, 5, classes)
    logits[2, 3, -1] = 100
    found = argmax_map(logits, *axes(logits, (60, 70)))
    assert found.dtype == dtype
    assert found.max() == classes - 1
    assert_wins(found, enlarged(logits, (60, 70)), 1e-4)
    mean = argmax_of_mean_softmax([(logits, *axes(logits, (60, 70)))])
    assert mean.dtype == dtype
    assert mean.max() == classes - 1


def test_the_lowest_of_equal_classes_wins() -> None:
    logits = random(6, 6, 8)
    twice = np.concatenate([logits, logits], axis=2)[..., [4, 1, 0, 3, 2, 5, 7, 6, *range(8, 16)]]
    matrices = axes(logits, (90, 90))
    found = argmax_map(twice, *matrices)
    assert found.max() < 8
    np.testing.assert_array_equal(argmax_of_mean_softmax([(twice, *matrices)] * 2), found)
    assert (argmax_map(np.ones((3, 3, 5), np.float32), *axes(logits[:3, :3], (20, 20))) == 0).all()


@pytest.mark.parametrize(("offset", "scale"), [(1000, 0.3), (0, 1e-3), (-50, 30)])
def test_logits_of_any_size_are_told_apart(offset: float, scale: float) -> None:
    logits = np.float32(offset) + np.float32(scale) * random(6, 6, 8)
    rounding = 2e-6 * float(np.abs(logits).max())
    assert_wins(argmax_map(logits, *axes(logits, (90, 90))), enlarged(logits, (90, 90)), rounding)


@pytest.mark.parametrize("fixture", [smooth, random])
@pytest.mark.parametrize("size", [(512, 683), (300, 900), (430, 512), (1100, 520)])
def test_sliding_windows_are_averaged_before_the_picture_is_resized(size, fixture) -> None:  # type: ignore[no-untyped-def]
    picture, cells = (397, 455), 9
    spans = [window_spans(side, 512, 341) for side in size]
    total = torch.zeros(1, 6, *size, dtype=torch.float64)
    count = torch.zeros(1, 1, *size, dtype=torch.float64)
    bands = []
    for seed_y, (top, bottom) in enumerate(spans[0]):
        band = []
        for seed_x, (left, right) in enumerate(spans[1]):
            band.append(fixture(cells, cells, 6, 10 * seed_y + seed_x))
            window = enlarged(band[-1], (bottom - top, right - left))
            total[:, :, top:bottom, left:right] += window
            count[:, :, top:bottom, left:right] += 1
        bands.append(np.concatenate(band, axis=1))
    values = interpolate(total / count, picture, mode="bilinear", align_corners=False)[0]
    rows, columns = (
        bilinear_axis(side, pixels) @ stitch_axis(span, [cells] * len(span), side)
        for side, pixels, span in zip(size, picture, spans, strict=True)
    )
    assert_wins(argmax_map(np.concatenate(bands), rows, columns), values, 1e-5)


def mean_softmax(*values: Tensor) -> Tensor:
    return torch.stack([each.softmax(0) for each in values]).mean(0)


@pytest.mark.parametrize("fixture", [smooth, random])
def test_a_mirror_image_is_averaged_after_the_softmax(fixture, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    size, level = (131, 217), (84, 126)
    logits, other = fixture(6, 9, 11), fixture(6, 9, 11, 5)
    mirrored = bilinear_axis(126, 217) @ bilinear_axis(9, 126)[::-1]
    rows, columns = axes(logits, level, size)
    views = [(logits, rows, columns), (other, rows, mirrored)]
    back = interpolate(enlarged(other, level).flip(2)[None], size, mode="bilinear")[0]
    values = mean_softmax(enlarged(logits, level, size), back)
    found = argmax_of_mean_softmax(views)
    assert_wins(found, values, 1e-6)
    np.testing.assert_array_equal(found, unpruned(monkeypatch, views))
    # The mean of logits has other winners, so that it cannot be what was computed.
    of_logits = (enlarged(logits, level, size) + back).argmax(0).numpy()
    assert (found != of_logits).mean() > 0.01


def test_views_of_several_scales_are_averaged() -> None:
    size = (150, 201)
    scales = [smooth(5, 7, 9), random(8, 10, 9), smooth(13, 3, 9, 4)]
    values = mean_softmax(*(enlarged(logits, size) for logits in scales))
    found = argmax_of_mean_softmax([(logits, *axes(logits, size)) for logits in scales])
    assert_wins(found, values, 1e-6)


def test_one_channel_is_resized_as_by_pytorch() -> None:
    values = random(7, 9, 1)
    found = resize_map(values[..., 0], *axes(values, (98, 126), (211, 333)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, enlarged(values, (98, 126), (211, 333))[0], atol=1e-5)


@pytest.mark.parametrize("fixture", [smooth, random])
def test_memory_stays_far_below_that_of_all_values(fixture) -> None:  # type: ignore[no-untyped-def]
    logits = fixture(60, 80, 100)
    matrices = axes(logits, (900, 1200))
    views = [(logits, *matrices)] * 2
    for work in (lambda: argmax_map(*views[0]), lambda: argmax_of_mean_softmax(views)):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # All values are 432 MB.
        assert peak < 40e6


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e35])
def test_logits_that_are_not_finite_are_refused(wrong: float) -> None:
    logits = random(3, 4, 5)
    logits[1, 2, 3] = wrong
    matrices = axes(logits, (30, 40))
    for views in ([(logits, *matrices)], [(np.ones_like(logits), *matrices), (logits, *matrices)]):
        with pytest.raises(EngineError, match="accepted are finite numbers up to 1e\\+30"):
            argmax_of_mean_softmax(views)
    with pytest.raises(EngineError, match="accepted are finite numbers"):
        argmax_map(logits, *matrices)


def test_one_channel_that_is_not_finite_is_refused() -> None:
    with pytest.raises(EngineError, match="not finite"):
        resize_map(np.array([[1, np.nan]], np.float32), *axes(random(1, 2, 1), (3, 4)))


def test_what_does_not_fit_together_is_refused() -> None:
    logits = random(3, 4, 5)
    rows, columns = axes(logits, (30, 40))
    with pytest.raises(UsageError, match=r"rows \(40, 4\) and columns \(30, 3\) do not fit"):
        argmax_map(logits, columns, rows)
    with pytest.raises(UsageError, match="one for all"):
        argmax_of_mean_softmax([(logits, rows, columns), (logits, rows[1:], columns)])
    with pytest.raises(UsageError, match="one for all"):
        argmax_of_mean_softmax([])
    for matrix in (2 * rows, np.float32(1.5) * rows - np.float32(0.5 / 3), np.nan * rows):
        with pytest.raises(UsageError, match="weights below 0, or rows that do not add up to 1"):
            argmax_map(logits, matrix, columns)
    with pytest.raises(UsageError, match="65536 classes; accepted are up to 65535"):
        argmax_map(random(1, 1, 65536), *axes(random(1, 1, 1), (2, 2)))
