"""Shards over several workers that run beside each other, any of which may be lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from clsspec_serve.dataset.runners.runner import Done, News, Tell
from clsspec_serve.dataset.shards import Record
from clsspec_serve.errors import DatasetError

AHEAD = 2
"""Shards that a replica has at a time: the second one's pictures are read beside the first's."""
LOSSES = 3
"""Replicas that a shard may lose, or that may be lost in a row before they are ready."""
_SECONDS = 0.25
"""Between two looks at the news."""


class Lost(Exception):
    """The replica is not there any more; says why, where that is known."""


class Replica(Protocol):
    """A worker somewhere."""

    @property
    def ready(self) -> Future[None]:
        """Done when it takes shards; raises `Lost`, and what kept it from that."""
        ...

    def compute(self, shard: int) -> Future[Record]:
        """See `Worker`; raises `Lost`, too."""
        ...

    def news(self) -> News:
        """What is known, without waiting."""
        ...

    def close(self) -> None:
        """End it, whatever it is doing."""
        ...


@dataclass
class _Place:
    """A replica, its shards, and what it told of pictures that are in no record so far.

    `start`: what gives another one in its place.
    """

    start: Callable[[], Replica]
    replica: Replica
    shards: dict[Future[Record], int] = field(default_factory=dict)
    told: News = field(default_factory=News)

    @property
    def ready(self) -> bool:
        future = self.replica.ready
        return future.done() and future.exception() is None

    @property
    def awaited(self) -> list[Future[Any]]:
        return list(self.shards) if self.ready else [self.replica.ready]


def spread(
    starts: Sequence[Callable[[], Replica]], shards: Sequence[int], tell: Tell, done: Done
) -> None:
    """Compute shards on a replica of each start, and a new one in place of each that is lost.

    Raises what a replica raises, and `DatasetError` for a shard that loses one after another.
    """
    work = _Spread(starts[: len(shards)], shards, tell, done)
    try:
        work.run()
    finally:
        work.close()


class _Spread:
    def __init__(
        self,
        starts: Sequence[Callable[[], Replica]],
        shards: Sequence[int],
        tell: Tell,
        done: Done,
    ) -> None:
        self._tell, self._done = tell, done
        self._queue = deque(shards)
        self._losses: Counter[int] = Counter()
        self._unready = 0
        self._places: list[_Place] = []
        for start in starts:
            self._places.append(_Place(start, start()))

    def run(self) -> None:
        while self._queue or any(place.shards for place in self._places):
            self._hand_out()
            awaited = [each for place in self._places for each in place.awaited]
            wait(awaited, timeout=_SECONDS, return_when=FIRST_COMPLETED)
            for place in [*self._places]:
                self._look(place)
        for place in self._places:
            self._settle(place)

    def close(self) -> None:
        for place in self._places:
            place.replica.close()

    def _hand_out(self) -> None:
        for depth, place in self._free():
            if self._queue and len(place.shards) == depth:
                shard = self._queue.popleft()
                place.shards[place.replica.compute(shard)] = shard

    def _free(self) -> Iterator[tuple[int, _Place]]:
        ready = [place for place in self._places if place.ready]
        return ((depth, place) for depth in range(AHEAD) for place in ready)

    def _look(self, place: _Place) -> None:
        news = place.replica.news()
        if news != News():
            place.told += news
            self._tell(news)
        try:
            if place.replica.ready.done():
                place.replica.ready.result()
            for future in [each for each in place.shards if each.done()]:
                record = future.result()
                del place.shards[future]
                place.told += News(-record.pictures, -record.failed)
                self._unready = 0
                self._done(record)
        except Lost as loss:
            self._lose(place, loss)

    def _lose(self, place: _Place, loss: Lost) -> None:
        """Its shards are the next ones; what it told of them is lost."""
        self._places.remove(place)
        place.replica.close()
        self._settle(place)
        lost = sorted(place.shards.values())
        self._queue.extendleft(reversed(lost))
        self._losses.update(lost)
        self._unready += not place.ready
        worst = max(lost, key=lambda shard: self._losses[shard], default=None)
        if worst is not None and self._losses[worst] >= LOSSES:
            raise DatasetError(f"shard {worst} has lost {LOSSES} replicas; the last one {loss}")
        if self._unready >= LOSSES:
            raise DatasetError(f"{LOSSES} replicas in a row did not start; the last one {loss}")
        self._places.append(_Place(place.start, place.start()))

    def _settle(self, place: _Place) -> None:
        """What was told of pictures and what its records say comes to the same."""
        if place.told.pictures or place.told.failed:
            self._tell(News(-place.told.pictures, -place.told.failed))
