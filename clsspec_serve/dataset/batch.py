"""A data set's run from beginning to end: opened or begun, worked off, and summed up."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineName
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.calibrating import calibrated
from clsspec_serve.dataset.codecs.calibration import Calibration
from clsspec_serve.dataset.duplicates import with_duplicates
from clsspec_serve.dataset.fingerprint import fingerprint
from clsspec_serve.dataset.layout import Layout, layout_of
from clsspec_serve.dataset.run import Run, State, begin, is_run, resume
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.runners.runner import News, Runner
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.sources.find import find_source
from clsspec_serve.dataset.sources.source import Source
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.vectors import has_vectors, write_vectors
from clsspec_serve.dataset.words import counted, kinds_of
from clsspec_serve.engines.select import choose_engine, why_not
from clsspec_serve.errors import DatasetError
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model
from clsspec_serve.progress import progress
from clsspec_serve.request import settle


@dataclass(frozen=True)
class Settings:
    """Of a run, see the options of `clsspec batch`.

    `model`: a reference, as `find_bundle`'s. `npy`: as `write_vectors`; a run that has such arrays
    keeps them. `readers`: threads that read every picture where duplicates are looked for.
    """

    source: str
    out: str
    asked: Asked
    model: str | None = None
    max_errors: int | None = None
    append: bool = False
    npy: bool = False
    readers: int = 8


@dataclass(frozen=True)
class Summary:
    """What a run has done, at this time and before.

    `seconds`: of this time, for `computed` pictures, of which `passed` are no duplicates.
    `failures`: how many of all failed, by kind. `duplicates`: how many have the bytes of another
    one. `calibration`: of the codec, where there is one.
    """

    out: str
    pictures: int
    shards: int
    computed: int
    passed: int
    seconds: float
    failures: Mapping[str, int]
    duplicates: int = 0
    calibration: Calibration | None = None

    def text(self) -> str:
        """In a line, and in another one what a codec loses."""
        done = f"{self.out}: {counted(self.pictures, 'picture')} in {counted(self.shards, 'shard')}"
        if self.computed < self.pictures:
            done += f", {self.computed} of them now"
        if self.computed:
            rate = self.passed / max(self.seconds, 1e-9)
            done += f", {self.seconds:.1f} s, {rate:.1f} images/s"
        if self.duplicates:
            done += f"; {counted(self.duplicates, 'duplicate')}"
        done += f"; {kinds_of(self.failures)}"
        return f"{done}\ncodec: {self.calibration.words()}" if self.calibration else done


def work_off(bundle: Bundle, settings: Settings, runner: Runner) -> Summary:
    """Begin a run, or go on with it, until all its shards are done.

    Raises `DatasetError`, `UsageError`, `OutputError` and `EngineError`; what is done stays done.
    """
    source = find_source(settings.source, settings.asked.column, settings.asked.fps)
    state, layout = begun(bundle, settings, source, runner.gpu)
    tree = open_tree(settings.out)
    with tree.claimed():
        if not is_run(tree):
            begin(tree, state)
        run = resume(tree, source, layout, state, append=settings.append)
        run = with_duplicates(run, settings.readers)
        run = calibrated(run, layout, lambda: _model(bundle, state.asked, runner))
        records = run.records()
        before = _pictures(records.values())
        start = time.monotonic()
        _work(run, runner, records, settings.max_errors)
        seconds = time.monotonic() - start
        if settings.npy or has_vectors(tree, layout.vectors):
            write_vectors(run, records[run.state.shards - 1].pictures)
    now = _pictures(records.values())
    failures: Counter[str] = Counter()
    for record in records.values():
        failures.update(record.failures)
    return Summary(
        out=settings.out,
        pictures=run.state.pictures,
        shards=run.state.shards,
        computed=now[0] - before[0],
        passed=now[1] - before[1],
        seconds=seconds,
        failures=failures,
        duplicates=sum(record.duplicates for record in records.values()),
        calibration=run.state.calibration,
    )


def begun(
    bundle: Bundle, settings: Settings, source: Source, gpu: str | None
) -> tuple[State, Layout]:
    """What a run is when it begins, without pictures so far; `gpu` as of `Runner`."""
    asked = settings.asked
    # The one that is chosen here has to be that of every machine.
    engine = choose_engine(asked.engine, asked.precision, gpus_here=gpu is not None)
    asked = asked.model_copy(update={"engine": engine})
    request = settle(bundle.manifest, asked.options())
    layout = layout_of(bundle.manifest, request, asked)
    state = State(
        source=settings.source,
        place=source.place,
        model=_from_anywhere(settings.model),
        asked=asked,
        fingerprint=fingerprint(bundle.manifest, request, asked, source.place, gpu),
        vectors=layout.vectors,
        maps=layout.maps,
        files=layout.files,
        parts=(),
    )
    return state, layout


def _pictures(records: Iterable[Record]) -> tuple[int, int]:
    """How many there are, and how many of them are no duplicates."""
    numbers = [(each.pictures, each.pictures - each.duplicates) for each in records]
    return sum(all_ for all_, _ in numbers), sum(passed for _, passed in numbers)


def _model(bundle: Bundle, asked: Asked, runner: Runner) -> Model:
    """A model for a sample, on this machine."""
    if isinstance(runner, Here):
        return runner.model
    engine = asked.engine
    on_gpu: EngineName = "tensorrt" if engine == "tensorrt" else "cuda"
    if runner.gpu is not None and why_not(on_gpu) is not None:
        # A cluster's driver; what is found here is kept for all.
        engine = choose_engine("auto", asked.precision, gpus_here=False)
    device = runner.device if isinstance(runner, Processes) else None
    return start(
        bundle,
        engine=engine,
        precision=asked.precision,
        shared=True,
        device=device,
        batch_size=asked.batch_size,
    )


def _from_anywhere(model: str | None) -> str | None:
    if model is None or model.startswith("hf:"):
        return model
    return os.path.abspath(os.path.expanduser(model))


def _work(run: Run, runner: Runner, records: dict[int, Record], max_errors: int | None) -> None:
    """Compute the shards that have no record, and add theirs."""
    pending = [shard for shard in range(run.state.shards) if shard not in records]
    failed = sum(record.failed for record in records.values())
    if not pending:
        return
    if max_errors is not None and failed > max_errors:
        raise DatasetError(
            f"{counted(failed, 'picture')} failed before; accepted are {max_errors} (--max-errors)"
        )
    finished = sum(record.pictures for record in records.values())
    with progress("Extracting", run.state.pictures - finished, "images") as meter:

        def tell(news: News) -> None:
            nonlocal failed
            failed += news.failed
            words = [f"slowest: {news.slowest}"] if news.slowest else []
            meter.note(", ".join(words + ([f"{failed} failed"] if failed else [])))
            meter.advance(news.pictures)
            if max_errors is not None and failed > max_errors:
                raise DatasetError(
                    f"{counted(failed, 'picture')} failed, the last one {news.failure}; accepted "
                    f"are {max_errors} (--max-errors)"
                )

        def done(record: Record) -> None:
            records[record.shard] = record

        runner.run(run, pending, tell, done)
