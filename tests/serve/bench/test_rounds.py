from __future__ import annotations

from collections.abc import Callable

import pytest

from clsspec_serve.bench.rounds import LEAST_ROUNDS, PAUSE, TURN, measure


class Machine:
    """A clock that only work and pauses move, and a list of who worked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.log.append("|")

    def work(self, name: str, seconds: float, cold: float = 0.0) -> Callable[[], None]:
        """Work of so many seconds, `cold` more where the one before it was another's."""

        def run() -> None:
            self.now += seconds + (cold if self.log[-1:] != [name] else 0)
            self.log.append(name)

        return run


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_all_have_their_turn_in_each_round_and_every_other_round_goes_backwards(
    machine: Machine,
) -> None:
    groups = {
        "pair": [machine.work("a", 1), machine.work("b", 2)],
        "ceiling": [machine.work("c", 3)],
    }
    measure(groups, seconds=0, rounds=3, clock=machine.clock, sleep=machine.sleep)
    assert "".join(machine.log) == "aabbcc" + "|a|b|c" + "|c|b|a" + "|a|b|c"
    assert machine.pauses == [PAUSE] * 9


def test_times_are_those_of_their_own_work_in_every_round(machine: Machine) -> None:
    groups = {
        "pair": [machine.work("a", 1), machine.work("b", 2)],
        "ceiling": [machine.work("c", 3)],
    }
    found = measure(groups, seconds=0, rounds=2, clock=machine.clock, sleep=machine.sleep)
    assert found == {"pair": [[[1], [1]], [[2], [2]]], "ceiling": [[[3], [3]]]}


@pytest.mark.parametrize("first", [8, 4.5], ids=["slower second", "slower first"])
def test_short_work_runs_often_in_a_turn_and_all_of_a_group_equally_often(
    machine: Machine, first: float
) -> None:
    second = 12.5 - first
    groups = {
        "pair": [machine.work("a", TURN / first), machine.work("b", TURN / second)],
        "alone": [machine.work("c", TURN / 2.5)],
    }
    found = measure(groups, seconds=0, rounds=1, clock=machine.clock, sleep=machine.sleep)
    assert "".join(machine.log).endswith("|aaaaa|bbbbb|ccc")
    assert [len(turn) for works in found.values() for (turn,) in works] == [4, 4, 2]


def test_the_first_run_of_a_turn_is_not_counted(machine: Machine) -> None:
    groups = {name: [machine.work(name, TURN / 4.5, cold=0.5)] for name in ("a", "b")}
    found = measure(groups, seconds=0, rounds=2, clock=machine.clock, sleep=machine.sleep)
    counted = [seconds for works in found.values() for turn in works[0] for seconds in turn]
    assert counted == pytest.approx([TURN / 4.5] * len(counted))
    assert len(counted) == 2 * 2 * 4


def test_work_that_is_longer_than_a_turn_runs_once_and_is_counted(machine: Machine) -> None:
    groups = {"a": [machine.work("a", 1.01 * TURN)]}
    found = measure(groups, seconds=0, rounds=2, clock=machine.clock, sleep=machine.sleep)
    assert [len(turn) for turn in found["a"][0]] == [1, 1]


def test_it_ends_once_the_seconds_are_over(machine: Machine) -> None:
    rounds = []
    found = measure(
        {"a": [machine.work("a", 2)]},
        seconds=9,
        done=lambda: rounds.append(machine.now),
        clock=machine.clock,
        sleep=machine.sleep,
    )
    assert len(found["a"][0]) == len(rounds) == 5
    assert rounds[-1] - rounds[0] == 8


def test_however_little_time_there_is_there_are_some_rounds(machine: Machine) -> None:
    groups = {"a": [machine.work("a", 100)]}
    found = measure(groups, seconds=0, clock=machine.clock, sleep=machine.sleep)
    assert len(found["a"][0]) == LEAST_ROUNDS


def test_rounds_go_before_seconds(machine: Machine) -> None:
    groups = {"a": [machine.work("a", 100)]}
    once = measure(groups, seconds=0, rounds=1, clock=machine.clock, sleep=machine.sleep)
    assert len(once["a"][0]) == 1
    seven = measure(groups, seconds=0, rounds=7, clock=machine.clock, sleep=machine.sleep)
    assert len(seven["a"][0]) == 7
