"""Several pieces of work timed in turns, so that whatever else the machine does hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import count
from typing import TypeVar

Work = Callable[[], object]
Seconds = list[float]
Key = TypeVar("Key", bound=Hashable)

PAUSE = 0.06
"""Seconds before each turn: longer than an idle engine's threads keep spinning on the cores."""
TURN = 0.1
"""Seconds that the turn of short work takes, at least about."""
LEAST_ROUNDS = 3
"""However little time was given."""


def measure(
    groups: Mapping[Key, Sequence[Work]],
    *,
    seconds: float,
    rounds: int | None = None,
    done: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[Key, list[list[Seconds]]]:
    """For each group, for each of its works, for each round, the seconds of the runs in its turn.

    A round gives every work a turn, neighbours in a group one after the other; every other round
    goes backwards. All of a group run equally often in a turn, which is what makes their times
    comparable pair by pair: as often as fit into `TURN`, and once more at the start, which is not
    counted, as the caches still hold what others used; work that is longer than `TURN` runs once.
    One round before the first is not counted either. There are `rounds` of them, or else as many
    as `seconds` allow, at least `LEAST_ROUNDS`. `done` is called after each.
    """
    order = [(key, index) for key, works in groups.items() for index in range(len(works))]
    runs = {key: _runs_in_a_turn(works, clock) for key, works in groups.items()}
    found: dict[Key, list[list[Seconds]]] = {key: [[] for _ in groups[key]] for key in groups}
    started = clock()
    for number in count(1):
        for key, index in order if number % 2 else reversed(order):
            sleep(PAUSE)
            found[key][index].append(_turn(groups[key][index], runs[key], clock))
        done()
        enough = clock() - started >= seconds and number >= LEAST_ROUNDS
        if enough if rounds is None else number >= rounds:
            break
    return found


def _runs_in_a_turn(works: Sequence[Work], clock: Callable[[], float]) -> int:
    """By the slowest of a group; each runs twice, as the first run also sets things up."""
    slowest = 0.0
    for work in works:
        work()
        slowest = max(slowest, *_turn(work, 1, clock))
    return 1 + int(TURN / slowest) if slowest else 1


def _turn(work: Work, runs: int, clock: Callable[[], float]) -> Seconds:
    times = []
    for _ in range(runs):
        before = clock()
        work()
        times.append(clock() - before)
    return times[1:] or times
