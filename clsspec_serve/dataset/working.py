"""The shards of a run through one model: listed, computed, written, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from clsspec_serve.dataset.codecs.calibration import read_bases
from clsspec_serve.dataset.codecs.maps import MapCodec
from clsspec_serve.dataset.layout import layout_of
from clsspec_serve.dataset.pipeline import Pipeline
from clsspec_serve.dataset.preparing import InThreads, Job, Preparation, Steps
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.dataset.writer import ShardWriter
from clsspec_serve.predictor import Model


def codec_of(run: Run) -> MapCodec:
    """What becomes of a run's maps; raises `DatasetError`."""
    asked, found = run.state.asked, run.state.calibration
    bases = read_bases(run.tree, found) if found else {}
    return MapCodec(asked.codec, asked.dtype, bases)


@dataclass(frozen=True)
class Threads:
    """How many read, and how many decode, where these are threads; as many as decode encode."""

    readers: int = 8
    decoders: int = 2


def pipeline_of(
    run: Run, model: Model, threads: Threads, preparation: Preparation | None = None
) -> Pipeline:
    """The pipeline of a run's pictures; they are prepared in threads unless told otherwise."""
    asked = run.state.asked
    request = model.request(**asked.options())
    if preparation is None:
        reader = open_reader(run.state.place, request.limits.max_pixels)
        steps = Steps(model.manifest, request, reader)
        preparation = InThreads(steps, readers=threads.readers, decoders=threads.decoders)
    return Pipeline(
        preparation,
        model,
        request,
        layout_of(model.manifest, request, asked),
        codec_of(run),
        batch_size=asked.batch_size,
        encoders=threads.decoders,
    )


def work(
    run: Run,
    pipeline: Pipeline,
    shards: Iterable[int],
    *,
    seen: Callable[[Row], None],
    done: Callable[[Record], None],
) -> None:
    """Compute and write shards; `seen` is told of each row, `done` of each record.

    What either of them raises ends the work, and the shard in work has no record. The next shard is
    asked for when the pictures of the last one are on their way, and computed while that one's
    files are put in place.
    """
    writer: ShardWriter | None = None
    placing: Future[None] | None = None

    def jobs() -> Iterator[Job]:
        for shard in shards:
            pictures = [*zip(run.items(shard), run.contents(shard), strict=True)]
            for index, (item, content) in enumerate(pictures):
                yield Job(shard, item, index == len(pictures) - 1, content)

    def place(written: ShardWriter) -> None:
        try:
            done(written.finish())
        except BaseException as error:
            # The next row, which would tell, may never come.
            pipeline.fail(error)
            raise

    def write(job: Job, row: Row) -> None:
        nonlocal writer, placing
        if placing is not None and (placing.done() or job.last):
            placing.result()
        if writer is None:
            writer = ShardWriter(run.tree, pipeline.layout, job.shard, run.state.asked.shard_size)
        writer.add(row)
        seen(row)
        if job.last:
            placing = places.submit(place, writer)
            writer = None

    with ThreadPoolExecutor(1, "place") as places:
        try:
            pipeline.run(jobs(), write)
        finally:
            if writer is not None:
                writer.close()
    if placing is not None:
        placing.result()
