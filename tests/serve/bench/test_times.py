from __future__ import annotations

import pytest

from clsspec_serve.bench.times import Times, quartiles


def test_the_median_is_of_all_runs_whatever_their_round() -> None:
    assert Times([[5, 1], [2, 9, 3]]).median == 3
    assert Times([[5, 1], [2, 9]]).median == 3.5


def test_the_shortest_is_of_all_rounds() -> None:
    assert Times([[5, 3], [2, 9]]).shortest == 2


def test_percentiles_are_the_nearest_ranks() -> None:
    times = Times([[float(n) for n in range(200, 100, -1)], [float(n) for n in range(1, 101)]])
    assert times.percentile(90) == 180
    assert times.percentile(99) == 198
    assert times.percentile(50) == 100


@pytest.mark.parametrize(("percent", "needed"), [(90, 10), (99, 100)])
def test_a_percentile_that_could_only_be_the_longest_run_is_none(percent: int, needed: int) -> None:
    assert Times([[1.0] * (needed - 1)]).percentile(percent) is None
    assert Times([[1.0] * needed]).percentile(percent) == 1


def test_ratios_are_of_the_medians_in_one_round() -> None:
    own, other = Times([[2, 8, 4], [30]]), Times([[1, 2, 3], [20]])
    assert own.ratios(other) == [2, 1.5]
    assert other.ratios(own) == [0.5, pytest.approx(2 / 3)]


def test_noise_that_hits_a_whole_round_leaves_the_ratios_as_they_are() -> None:
    calm = [[1.02, 1.02], [1.02, 1.02]], [[1.0, 1.0], [1.0, 1.0]]
    noisy = [[times[0], [7 * each for each in times[1]]] for times in calm]
    own, twin = (Times(times) for times in noisy)
    assert own.ratios(twin) == pytest.approx([1.02, 1.02])


def test_rounds_that_are_not_pairs_have_no_ratios() -> None:
    with pytest.raises(ValueError, match="zip"):
        Times([[1.0]]).ratios(Times([[1.0], [1.0]]))


def test_quartiles() -> None:
    assert quartiles([1.0, 2.0, 3.0]) is None
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (1.5, 4.5)
