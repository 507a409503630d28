"""The shards of a run, one after the other, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.pipeline import Job, Pipeline
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.writer import ShardWriter


def run_shards(
    run: Run,
    pipeline: Pipeline,
    layout: Layout,
    shards: Sequence[int],
    *,
    seen: Callable[[Row], None] = lambda row: None,
    done: Callable[[Record], None] = lambda record: None,
) -> None:
    """Compute and write shards; `seen` is told of each row, `done` of each record.

    What either of them raises ends the run, and the shard in work has no record.
    """
    writer: ShardWriter | None = None

    def jobs() -> Iterator[Job]:
        for shard in shards:
            items = run.items(shard)
            for index, item in enumerate(items):
                yield Job(shard, item, index == len(items) - 1)

    def write(job: Job, row: Row) -> None:
        nonlocal writer
        if writer is None:
            writer = ShardWriter(run.tree, layout, job.shard, run.state.shard_size)
        writer.add(row)
        seen(row)
        if job.last:
            record = writer.finish()
            writer = None
            done(record)

    try:
        pipeline.run(jobs(), write)
    finally:
        if writer is not None:
            writer.close()
