"""What every runner is to a run, and what it tells of its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.stalls import Stalls


@dataclass(frozen=True)
class News:
    """What has been computed since the last news.

    `pictures`, and how many of them `failed`; negative where that is lost again. `failure`: the
    last one of them, in words. `slowest`: the stage that the others wait for.
    """

    pictures: int = 0
    failed: int = 0
    failure: str = ""
    slowest: str = ""

    def __add__(self, later: News) -> News:
        return News(
            self.pictures + later.pictures,
            self.failed + later.failed,
            later.failure or self.failure,
            later.slowest or self.slowest,
        )


def news_of(row: Row, stalls: Stalls) -> News:
    """That one row is there."""
    if row.failure is None:
        return News(1, slowest=stalls.slowest())
    return News(1, 1, f"{row.item.id}: {row.failure.reason}", stalls.slowest())


Tell = Callable[[News], None]
Done = Callable[[Record], None]


class Runner(Protocol):
    """Computes shards, each with the same bytes as any other runner."""

    @property
    def gpu(self) -> str | None:
        """The kind of GPU that computes, None for the CPU."""
        ...

    def run(self, run: Run, shards: Sequence[int], tell: Tell, done: Done) -> None:
        """Compute and write shards; `done` is told of each record when it is in place.

        What `tell` or `done` raises ends the run, and what is in work has no record.
        """
        ...
