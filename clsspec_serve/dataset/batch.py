"""A data set's run from beginning to end: opened or begun, worked off, and summed up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from clsspec_serve.choices import DType
from clsspec_serve.dataset.fingerprint import fingerprint
from clsspec_serve.dataset.layout import Layout, layout_of
from clsspec_serve.dataset.local import run_shards
from clsspec_serve.dataset.pipeline import Pipeline, Workers
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.run import Run, begin, is_run, resume
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.sources.find import find_source
from clsspec_serve.dataset.sources.source import Source
from clsspec_serve.dataset.stalls import Stalls
from clsspec_serve.dataset.trees import open_tree
from clsspec_serve.errors import DatasetError
from clsspec_serve.predictor import Model
from clsspec_serve.progress import progress
from clsspec_serve.request import Request


@dataclass(frozen=True)
class Settings:
    """Of a run, beside what is asked of its pictures; see the options of `clsspec batch`."""

    source: str
    out: str
    column: str | None = None
    dtype: DType = "float32"
    shard_size: int = 512
    batch_size: int = 8
    max_errors: int | None = None
    append: bool = False
    readers: int = 8
    decoders: int = 2


@dataclass(frozen=True)
class Summary:
    """What a run has done, at this time and before.

    `seconds`: of this time, for `computed` pictures. `failures`: how many of all failed, by kind.
    """

    out: str
    pictures: int
    shards: int
    computed: int
    seconds: float
    failures: Mapping[str, int]

    def text(self) -> str:
        """In a line."""
        done = f"{self.out}: {self.pictures} pictures in {self.shards} shards"
        if self.computed < self.pictures:
            done += f", {self.computed} of them now"
        if self.computed:
            rate = self.computed / max(self.seconds, 1e-9)
            done += f", {self.seconds:.1f} s, {rate:.1f} images/s"
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.failures.items()))
        failed = f"; {sum(self.failures.values())} failed: {kinds}" if kinds else "; none failed"
        return done + failed


def work_off(model: Model, request: Request, settings: Settings) -> Summary:
    """Begin a run, or go on with it, until all its shards are done.

    Raises `DatasetError`, `UsageError`, `OutputError` and `EngineError`; what is done stays done.
    """
    layout = layout_of(model, request, settings.dtype)
    source = find_source(settings.source, settings.column)
    tree = open_tree(settings.out)
    with tree.claimed():
        run = _opened(model, request, settings, layout, source)
        records = run.records()
        pending = [shard for shard in range(run.state.shards) if shard not in records]
        pipeline = Pipeline(
            source,
            model,
            request,
            layout,
            batch_size=settings.batch_size,
            workers=Workers(settings.readers, settings.decoders),
        )
        start = time.monotonic()
        computed = _work(run, pipeline, layout, pending, records, settings.max_errors)
    failures: Counter[str] = Counter()
    for record in records.values():
        failures.update(record.failures)
    return Summary(
        settings.out,
        run.state.pictures,
        run.state.shards,
        computed,
        time.monotonic() - start,
        failures,
    )


def _opened(
    model: Model, request: Request, settings: Settings, layout: Layout, source: Source
) -> Run:
    tree = open_tree(settings.out)
    prints = fingerprint(
        model,
        request,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        shard_size=settings.shard_size,
    )
    if not is_run(tree):
        begin(tree, settings.source, prints, layout, settings.shard_size)
    return resume(tree, source, prints, layout, append=settings.append)


def _work(
    run: Run,
    pipeline: Pipeline,
    layout: Layout,
    pending: list[int],
    records: dict[int, Record],
    max_errors: int | None,
) -> int:
    """Compute the pending shards and add their records; how many pictures that were."""
    finished = sum(record.pictures for record in records.values())
    failed = sum(record.failed for record in records.values())
    left = run.state.pictures - finished
    computed = 0
    stalls = Stalls(pipeline)
    if not pending:
        return 0
    if max_errors is not None and failed > max_errors:
        raise DatasetError(
            f"{failed} pictures have failed before; accepted are {max_errors} (--max-errors)"
        )

    with progress("Extracting", left, "images") as meter:

        def seen(row: Row) -> None:
            nonlocal computed, failed
            computed += 1
            failed += row.failure is not None
            meter.note(stalls.words(failed))
            meter.advance()
            if row.failure is not None and max_errors is not None and failed > max_errors:
                raise DatasetError(
                    f"{failed} pictures failed, the last one {row.item.id}: {row.failure.reason}; "
                    f"accepted are {max_errors} (--max-errors)"
                )

        def done(record: Record) -> None:
            records[record.shard] = record

        run_shards(run, pipeline, layout, pending, seen=seen, done=done)
    return computed
