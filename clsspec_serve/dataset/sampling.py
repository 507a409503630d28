"""A few of many pictures, spread evenly, so that no one folder stands for all."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter

from clsspec_serve.dataset.preparing import Job
from clsspec_serve.dataset.run import Run


def evenly(total: int, count: int) -> list[int]:
    """`count` places of `total`, or all of them: the middles of as many equal parts."""
    count = min(total, count)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def sampled(run: Run, shards: Mapping[int, int], count: int) -> list[tuple[Job, int]]:
    """Pictures of these shards, each with its place in its shard, the last one as the last job.

    `shards`: how many pictures each has. In place of a duplicate the picture is taken whose
    bytes it has, if that is in these shards; so there may be fewer than `count`.
    """
    size = run.state.asked.shard_size
    chosen: set[tuple[int, int]] = set()
    first = 0
    places = evenly(sum(shards.values()), count)
    for shard, pictures in shards.items():
        within = [place - first for place in places if first <= place < first + pictures]
        contents = run.contents(shard) if within else []
        for place in within:
            original = contents[place].duplicate_of
            chosen.add((shard, place) if original is None else divmod(original, size))
        first += pictures
    found: list[tuple[Job, int]] = []
    for shard, within_shard in groupby(sorted(chosen), key=itemgetter(0)):
        if shard in shards:
            items, contents = run.items(shard), run.contents(shard)
            for _, place in within_shard:
                found.append((Job(shard, items[place], False, contents[place]), place))
    if found:
        job, place = found[-1]
        found[-1] = (job._replace(last=True), place)
    return found
