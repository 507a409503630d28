"""A few of many pictures, spread evenly, so that no one folder stands for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clsspec_serve.dataset.preparing import Job
from clsspec_serve.dataset.run import Run


def evenly(total: int, count: int) -> list[int]:
    """`count` places of `total`, or all of them: the middles of as many equal parts."""
    count = min(total, count)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def sampled(run: Run, shards: Mapping[int, int], count: int) -> Iterator[tuple[Job, int]]:
    """Pictures of these shards, each with its place in its shard, the last one as the last job.

    `shards`: how many pictures each has.
    """
    places = evenly(sum(shards.values()), count)
    first = chosen = 0
    for shard, pictures in shards.items():
        within = [place - first for place in places if first <= place < first + pictures]
        known = [*zip(run.items(shard), run.contents(shard), strict=True)] if within else []
        for place in within:
            chosen += 1
            item, content = known[place]
            yield Job(shard, item, chosen == len(places), content), place
        first += pictures
