"""What the measured times of one piece of work amount to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds of every run, by round."""

    rounds: Sequence[Sequence[float]]

    @property
    def runs(self) -> list[float]:
        """All of them, from the shortest to the longest."""
        return sorted(seconds for each in self.rounds for seconds in each)

    @property
    def median(self) -> float:
        """Of all runs, in seconds."""
        return statistics.median(self.runs)

    @property
    def shortest(self) -> float:
        """Of all runs, in seconds: what the machine can do where nothing else disturbs it."""
        return self.runs[0]

    def percentile(self, percent: int) -> float | None:
        """The shortest time that `percent` of the runs do not exceed (nearest rank), in seconds.

        None where so few runs were made that it would be the longest of them by necessity.
        """
        runs = self.runs
        rank = math.ceil(len(runs) * percent / 100)
        return runs[rank - 1] if rank < len(runs) else None

    def ratios(self, other: Times) -> list[float]:
        """Of the medians in each round: these times over those of `other` in the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return [statistics.median(own) / statistics.median(others) for own, others in pairs]


def quartiles(ratios: Sequence[float]) -> tuple[float, float] | None:
    """The lower and the upper one; None for fewer than four."""
    if len(ratios) < 4:
        return None
    low, _, high = statistics.quantiles(ratios, n=4)
    return low, high
