"""Prepare, compute, encode, write: side by side, in bounded memory, in the listing's order.

One thread prepares ahead, one fills batches, one takes them from the network, one writes; pools
decode, compute and encode between them. Which pictures share a forward pass depends on the shard
alone, so that a shard's bytes do not depend on where, when or beside what it is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from math import ceil
from threading import Thread
from typing import Any, NamedTuple

from numpy.typing import NDArray

from clsspec_serve.dataset.batches import Batches, Shape
from clsspec_serve.dataset.channel import Channel, Ended
from clsspec_serve.dataset.codecs.int8 import BeyondInt8
from clsspec_serve.dataset.codecs.maps import MapCodec
from clsspec_serve.dataset.codecs.pca import one_blas_thread
from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.preparing import CHUNK, Job, Preparation, Preparing
from clsspec_serve.dataset.rows import Duplicate, Failure, Row, Unanswered, row_of
from clsspec_serve.dataset.stalls import Times
from clsspec_serve.dense.views import Pixels
from clsspec_serve.errors import UsageError, one_line
from clsspec_serve.predictor import Model
from clsspec_serve.preparation import Prepared
from clsspec_serve.request import Request

LOOK_AHEAD = 4
"""Batches of neighbours among which those of one shape are looked for."""

Found = Mapping[str, NDArray[Any]]


@dataclass
class _Pending:
    """A picture on its way through the network: how many of its views are in no batch, or open."""

    number: int
    job: Job
    prepared: Prepared | Unanswered
    unsent: int
    shape: Shape = ()
    found: list[Found] = field(default_factory=list)

    @property
    def lacking(self) -> int:
        """How many of its views are still to come."""
        return _views(self.prepared) - len(self.found)


def _views(prepared: Prepared | Unanswered) -> int:
    return prepared.tiling.views if isinstance(prepared, Prepared) else 0


class _Pass(NamedTuple):
    """A batch on its way through the network, whose views it has, and where they lie."""

    owners: list[_Pending]
    memory: Pixels
    answers: Future[list[dict[str, NDArray[Any]]]]


class _Step(NamedTuple):
    """Pictures since the last step, in order, then a forward pass, if any."""

    arrived: list[_Pending]
    forward: _Pass | None


class Pipeline:
    """Pictures through a model."""

    def __init__(
        self,
        preparation: Preparation,
        model: Model,
        request: Request,
        layout: Layout,
        codec: MapCodec,
        *,
        batch_size: int,
        encoders: int,
    ) -> None:
        self._preparation, self._model, self._request = preparation, model, request
        self.layout, self._codec = layout, codec
        self._batch_size, self._encoders = batch_size, encoders
        ahead = ceil(2 * (batch_size + encoders) / CHUNK)
        self._decoded: Channel[Preparing] = Channel(ahead)
        self._encoded: Channel[tuple[list[_Pending], Future[list[Row]]]] = Channel(ahead)
        self._batches: Batches[_Pending] = Batches(batch_size, model.room)
        # One waits while the network has others.
        self._steps: Channel[_Step] = Channel(1)
        self._errors: list[BaseException] = []
        self.times = Times()

    @property
    def failed(self) -> bool:
        """Whether a stage has failed, and `run` is about to end."""
        return bool(self._errors)

    def run(self, jobs: Iterable[Job], write: Callable[[Job, Row], None]) -> None:
        """Give each picture's row to `write`, in order, in a thread of its own.

        Raises whatever a stage raised; no row is given after that.
        """
        with (
            ThreadPoolExecutor(self._model.at_once, "model") as network,
            ThreadPoolExecutor(self._encoders, "encode") as encoders,
            one_blas_thread(),
        ):
            stages = [
                Thread(target=self._guarded, args=(self._feed, jobs)),
                Thread(target=self._guarded, args=(self._fill, network)),
                Thread(target=self._guarded, args=(self._write, write)),
            ]
            try:
                for stage in stages:
                    stage.start()
                self._guarded(self._take, encoders)
                for stage in stages:
                    stage.join()
            except BaseException:  # an interrupt, at any moment
                self._break_off()
                raise
            finally:
                for stage in stages:
                    if stage.ident is not None:
                        stage.join()
                for pool in (network, encoders):
                    pool.shutdown(cancel_futures=True)
        if self._errors:
            raise self._errors[0]

    def _guarded(self, stage: Callable[..., None], *arguments: Any) -> None:
        """Run a stage; when it fails, the others end."""
        try:
            stage(*arguments)
        except BaseException as error:
            # The last two are what a stage meets when another one has failed.
            if not isinstance(error, Ended | CancelledError):
                self.fail(error)
            self._break_off()

    def fail(self, error: BaseException) -> None:
        """End `run` with an error of somebody who works beside it."""
        self._errors.append(error)
        self._break_off()

    def _break_off(self) -> None:
        for channel in (self._decoded, self._steps, self._encoded):
            channel.break_off()

    def _feed(self, jobs: Iterable[Job]) -> None:
        with closing(self._preparation.start(jobs, self.times)) as preparing:
            for each in preparing:
                self._decoded.put(each)
        self._decoded.close()

    def _fill(self, network: ThreadPoolExecutor) -> None:
        """Views of one shape share a forward pass, when they are not far from each other."""
        batches, far = self._batches, LOOK_AHEAD * self._batch_size
        number = 0
        arrived: list[_Pending] = []
        unsent: deque[_Pending] = deque()

        def send(shape: Shape | None) -> None:
            forward = None
            if shape:
                owners, memory = batches.take(shape)
                pixels = memory[: len(owners)]
                answers = network.submit(self._model.forward, pixels, self._request)
                forward = _Pass(owners, memory, answers)
                for pending in owners:
                    pending.unsent -= 1
            while unsent and not unsent[0].unsent:
                unsent.popleft()
            self._steps.put(_Step(arrived.copy(), forward))
            arrived.clear()

        for jobs, decoding in self._decoded:
            with self.times.spent("decoding"):
                found = decoding.result()
            for job, prepared in zip(jobs, found, strict=True):
                number += 1
                pending = _Pending(number, job, prepared, _views(prepared))
                arrived.append(pending)
                if isinstance(prepared, Prepared):
                    unsent.append(pending)
                    for view in prepared.views():
                        pending.shape = view.shape
                        if batches.add(pending, view):
                            send(view.shape)
                while unsent and (job.last or number - unsent[0].number >= far):
                    send(unsent[0].shape)
                if arrived and (job.last or number - arrived[0].number >= far):
                    send(None)
        self._steps.close()

    def _take(self, encoders: ThreadPoolExecutor) -> None:
        waiting: deque[_Pending] = deque()
        for arrived, forward in self._steps:
            waiting.extend(arrived)
            if forward is not None:
                with self.times.spent("model"):
                    answers = forward.answers.result()
                self._batches.give_back(forward.memory)
                for pending, found in zip(forward.owners, answers, strict=True):
                    pending.found.append(found)
            ready = []
            while waiting and not waiting[0].lacking:
                ready.append(waiting.popleft())
            for first in range(0, len(ready), CHUNK):
                chunk = ready[first : first + CHUNK]
                self._encoded.put((chunk, encoders.submit(self._encode, chunk)))
        self._encoded.close()

    def _write(self, write: Callable[[Job, Row], None]) -> None:
        for chunk, encoding in self._encoded:
            with self.times.spent("encoding"):
                rows = encoding.result()
            with self.times.spent("writing"):
                for pending, row in zip(chunk, rows, strict=True):
                    write(pending.job, row)

    def _encode(self, chunk: Sequence[_Pending]) -> list[Row]:
        return [replace(self._row(each), content=each.job.content) for each in chunk]

    def _row(self, pending: _Pending) -> Row:
        if isinstance(pending.prepared, Failure):
            return Row(pending.job.item, failure=pending.prepared)
        if isinstance(pending.prepared, Duplicate):
            return Row(pending.job.item)
        found: Sequence[Found] = pending.found
        prediction = self._model.finish(pending.prepared, found, self._request)
        try:
            return row_of(pending.job.item, prediction, self.layout, self._codec)
        except UsageError as error:
            kind = "beyond int8" if isinstance(error, BeyondInt8) else "beyond float16"
            return Row(pending.job.item, failure=Failure(kind, one_line(error)))
