"""Read, decode, compute, encode, write: side by side, in bounded memory, in the listing's order.

One thread reads ahead, one runs the network, one writes; pools decode and encode between them.
Which pictures share a forward pass depends on the shard alone, so that a shard's bytes do not
depend on where, when or beside what it is computed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.channel import Channel, Ended
from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.rows import Failure, Row, failure_of, row_of
from clsspec_serve.dataset.sources.source import Source
from clsspec_serve.dense.views import Pixels
from clsspec_serve.errors import ImageError, UsageError, one_line
from clsspec_serve.predictor import Model, Prepared
from clsspec_serve.request import Request

Found = Mapping[str, NDArray[Any]]


class Job(NamedTuple):
    """A picture of a shard, and whether it is the shard's last one."""

    shard: int
    item: Item
    last: bool


@dataclass(frozen=True)
class Workers:
    """How many threads read, and how many decode; as many as decode encode."""

    readers: int
    decoders: int


@dataclass
class Times:
    """Seconds that the stages have worked, or have been waited for."""

    reading: float = 0.0
    decoding: float = 0.0
    model: float = 0.0
    encoding: float = 0.0
    writing: float = 0.0

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """The block is that stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.monotonic() - start)


@dataclass
class _Pending:
    """A picture on its way through the network."""

    job: Job
    prepared: Prepared | Failure
    found: list[Found] = field(default_factory=list)

    @property
    def lacking(self) -> int:
        """How many of its views are still to come."""
        if isinstance(self.prepared, Failure):
            return 0
        return self.prepared.tiling.views - len(self.found)


class Pipeline:
    """A source's pictures through a model."""

    def __init__(
        self,
        source: Source,
        model: Model,
        request: Request,
        layout: Layout,
        *,
        batch_size: int,
        workers: Workers,
    ) -> None:
        self._source, self._model, self._request = source, model, request
        self._layout, self._batch_size, self._workers = layout, batch_size, workers
        ahead = 2 * (batch_size + workers.decoders)
        self._decoded: Channel[tuple[Job, Future[Prepared | Failure]]] = Channel(ahead)
        self._encoded: Channel[tuple[Job, Future[Row]]] = Channel(ahead)
        self._errors: list[BaseException] = []
        self.times = Times()

    def run(self, jobs: Iterable[Job], write: Callable[[Job, Row], None]) -> None:
        """Give each picture's row to `write`, in order, in a thread of its own.

        Raises whatever a stage raised; no row is given after that.
        """
        workers = self._workers
        with (
            ThreadPoolExecutor(workers.readers, "read") as readers,
            ThreadPoolExecutor(workers.decoders, "decode") as decoders,
            ThreadPoolExecutor(workers.decoders, "encode") as encoders,
        ):
            feeding = Thread(target=self._guarded, args=(self._feed, jobs, readers, decoders))
            writing = Thread(target=self._guarded, args=(self._write, write))
            feeding.start()
            writing.start()
            try:
                self._guarded(self._compute, encoders)
            finally:
                # An interrupt comes here, too, and leaves the others to be told.
                if not self._errors:
                    self._encoded.close()
                feeding.join()
                writing.join()
                for pool in (readers, decoders, encoders):
                    pool.shutdown(cancel_futures=True)
        if self._errors:
            raise self._errors[0]

    def _guarded(self, stage: Callable[..., None], *arguments: Any) -> None:
        """Run a stage; when it fails, the others end."""
        try:
            stage(*arguments)
        except Ended:
            pass
        except BaseException as error:
            self._errors.append(error)
            self._decoded.break_off()
            self._encoded.break_off()

    def _feed(
        self, jobs: Iterable[Job], readers: ThreadPoolExecutor, decoders: ThreadPoolExecutor
    ) -> None:
        reads: deque[tuple[Job, Future[bytes | Failure]]] = deque()

        def decode_first() -> None:
            job, reading = reads.popleft()
            with self.times.spent("reading"):
                content = reading.result()
            self._decoded.put((job, decoders.submit(self._prepare, content)))

        for job in jobs:
            reads.append((job, readers.submit(self._read, job.item)))
            if len(reads) > 2 * self._workers.readers:
                decode_first()
        while reads:
            decode_first()
        self._decoded.close()

    def _compute(self, encoders: ThreadPoolExecutor) -> None:
        waiting: deque[_Pending] = deque()
        batch: list[Pixels] = []

        def forward() -> None:
            with self.times.spent("model"):
                found = deque(self._model.forward(np.stack(batch), self._request))
            batch.clear()
            for pending in waiting:
                while found and pending.lacking:
                    pending.found.append(found.popleft())

        def pass_on() -> None:
            while waiting and not waiting[0].lacking:
                pending = waiting.popleft()
                self._encoded.put((pending.job, encoders.submit(self._encode, pending)))

        for job, decoding in self._decoded:
            with self.times.spent("decoding"):
                prepared = decoding.result()
            waiting.append(_Pending(job, prepared))
            for view in () if isinstance(prepared, Failure) else prepared.views():
                if batch and (len(batch) == self._batch_size or view.shape != batch[0].shape):
                    forward()
                    pass_on()
                batch.append(view)
            if job.last and batch:
                forward()
            pass_on()
        self._encoded.close()

    def _write(self, write: Callable[[Job, Row], None]) -> None:
        for job, encoding in self._encoded:
            with self.times.spent("encoding"):
                row = encoding.result()
            with self.times.spent("writing"):
                write(job, row)

    def _read(self, item: Item) -> bytes | Failure:
        if item.problem is not None:
            return Failure("unreadable", item.problem)
        try:
            return self._source.read(item)
        except ImageError as error:
            return failure_of(error)

    def _prepare(self, content: bytes | Failure) -> Prepared | Failure:
        if isinstance(content, Failure):
            return content
        try:
            return self._model.prepare(content, self._request)
        except ImageError as error:
            return failure_of(error)

    def _encode(self, pending: _Pending) -> Row:
        if isinstance(pending.prepared, Failure):
            return Row(pending.job.item, failure=pending.prepared)
        found: Sequence[Found] = pending.found
        prediction = self._model.finish(pending.prepared, found, self._request)
        try:
            return row_of(pending.job.item, prediction, self._layout)
        except UsageError as error:
            return Row(pending.job.item, failure=Failure("beyond float16", one_line(error)))
