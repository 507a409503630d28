"""A model in a process that is not the run's own, and the shards that it is given."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Lock, Thread

from clsspec_serve.bundle import Bundle
from clsspec_serve.dataset.fingerprint import differences, fingerprint
from clsspec_serve.dataset.preparing import Preparation
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.run import State, open_run
from clsspec_serve.dataset.runners.runner import News, news_of
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.stalls import Stalls
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.working import Threads, pipeline_of, work
from clsspec_serve.engines.gpus import gpu_at
from clsspec_serve.errors import DatasetError
from clsspec_serve.loading import start
from clsspec_serve.models import find_bundle
from clsspec_serve.request import settle

_SECONDS = 0.2
"""Between two looks at whether there is still something to do."""


@dataclass(frozen=True)
class Resources:
    """What a worker takes of its machine: threads of its engine, those of its pipeline, a GPU."""

    engine: int | None
    threads: Threads
    device: int | None = None


class Worker:
    """Computes shards of the run in a folder, one after the other.

    Raises `DatasetError` where this machine would compute other bytes than the one on which the run
    was begun.
    """

    def __init__(
        self,
        out: str,
        resources: Resources,
        preparation: Preparation | None = None,
    ) -> None:
        self._run = run = open_run(open_tree(out))
        asked = run.state.asked
        device = resources.device
        bundle = same_bundle(run.state, None if device is None else gpu_at(device).name)
        model = start(
            bundle,
            engine=asked.engine,
            precision=asked.precision,
            threads=resources.engine,
            shared=True,
            device=device,
            batch_size=asked.batch_size,
        )
        self._pipeline = pipeline_of(run, model, resources.threads, preparation)
        self._stalls = Stalls(self._pipeline.times)
        self._shards: SimpleQueue[int] = SimpleQueue()
        self._records: dict[int, Future[Record]] = {}
        self._lock = Lock()
        self._news = News()
        self._error: BaseException | None = None
        Thread(target=self._work, daemon=True).start()

    def compute(self, shard: int) -> Future[Record]:
        """The record of a shard, when its files are in place."""
        record: Future[Record] = Future()
        with self._lock:
            if self._error is not None:
                record.set_exception(self._error)
                return record
            self._records[shard] = record
        self._shards.put(shard)
        return record

    def news(self) -> News:
        """Since the last time."""
        with self._lock:
            news, self._news = self._news, News()
        return news

    def _work(self) -> None:
        try:
            work(self._run, self._pipeline, self._given(), seen=self._seen, done=self._done)
        except BaseException as error:
            with self._lock:
                self._error = error
                lost = list(self._records.values())
            for record in lost:
                record.set_exception(error)

    def _given(self) -> Iterator[int]:
        # Who asks here would not be told that another stage has failed.
        while not self._pipeline.failed:
            with suppress(Empty):
                yield self._shards.get(timeout=_SECONDS)

    def _seen(self, row: Row) -> None:
        with self._lock:
            self._news += news_of(row, self._stalls)

    def _done(self, record: Record) -> None:
        with self._lock:
            waiting = self._records.pop(record.shard)
        waiting.set_result(record)


def same_bundle(state: State, gpu: str | None) -> Bundle:
    """The bundle of a run, as this machine has it, which has to give the same bytes here.

    `gpu`: as of `fingerprint`.
    """
    bundle = find_bundle(state.model)
    request = settle(bundle.manifest, state.asked.options())
    now = fingerprint(bundle.manifest, request, state.asked, state.place, gpu)
    found = differences(state.fingerprint, now)
    if found:
        raise DatasetError(f"{platform.node()} computes otherwise: {'; '.join(found.values())}")
    return bundle
