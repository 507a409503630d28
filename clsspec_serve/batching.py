"""Many askers, few engines: the pictures of several requests share forward passes.

Nothing waits for company: while an engine works on one batch the next one gathers. So a picture
that comes alone is as fast as without, and under load batches are as large as they may be.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from threading import Condition, Thread
from typing import Any

from numpy.typing import NDArray

from clsspec_serve.dense.views import Pixels, view_grid
from clsspec_serve.engines.protocol import here
from clsspec_serve.errors import Stopped, one_line
from clsspec_serve.predictor import Model
from clsspec_serve.preparation import Prepared
from clsspec_serve.request import Request

Found = dict[str, NDArray[Any]]
Observe = Callable[[int, float], None]

PATIENCE = 120.0
"""Seconds after which a forward pass that does not end counts as a failure."""


@dataclass(frozen=True)
class Answer:
    """What `Model.finish` makes a prediction of.

    `queued`: seconds from `submit`, at `submitted` of the monotonic clock, until the first view
    went through. `ran`: from then on.
    """

    views: Sequence[Found]
    submitted: float
    queued: float
    ran: float


@dataclass(eq=False)
class _View:
    """A part of a picture that goes through the network at once, and what came out."""

    job: _Job
    pixels: Pixels
    found: Found | None = None


class _Job:
    """A picture on its way; its views may be in several batches. Guarded by the queue's lock."""

    def __init__(self, prepared: Prepared, request: Request) -> None:
        self.request = request
        self.future: Future[Answer] = Future()
        self.grid = view_grid(prepared.geometry, prepared.tiling)
        self.waiting = prepared.tiling.views
        self._pixels: Iterator[Pixels] = prepared.views()
        self._taken: list[_View] = []
        self._submitted = time.monotonic()
        self._began = 0.0

    def take(self, most: int) -> list[_View]:
        """The next views."""
        self._began = self._began or time.monotonic()
        views = [_View(self, pixels) for pixels in islice(self._pixels, most)]
        self.waiting -= len(views)
        self._taken += views
        return views

    def settle(self) -> None:
        """Answer when everything is found."""
        found = [view.found for view in self._taken if view.found is not None]
        if self.waiting or len(found) < len(self._taken) or self.future.done():
            return
        if self.future.set_running_or_notify_cancel():
            queued = self._began - self._submitted
            ran = time.monotonic() - self._began
            self.future.set_result(Answer(found, self._submitted, queued, ran))

    def fail(self, error: Exception) -> None:
        """Answer with an error, unless there is an answer."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher:
    """One thread for each pass that an engine has under way, and one queue for all.

    `models`: the same bundle, on each engine. `largest`: views in a batch; `patches`: of all its
    views together, so that large ones go in smaller batches. `observe` is told of every batch: how
    many views, and the seconds that they took.

    Pictures are served in the order in which they came. One in many windows goes to the back of
    the queue after each batch, so that others are not kept waiting for all of it.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        largest: int = 8,
        patches: int = 16384,
        observe: Observe = lambda views, seconds: None,
    ) -> None:
        self._largest, self._patches, self._observe = largest, patches, observe
        lanes = [model for model in models for _ in range(model.at_once)]
        self._began: list[float | None] = [None] * len(lanes)
        self._queue: deque[_Job] = deque()
        self._changed = Condition()
        self._stopped = False
        self._failure: str | None = None
        self._threads = [
            Thread(target=self._serve, args=(index, model), name=f"engine-{index}", daemon=True)
            for index, model in enumerate(lanes)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Views in the queue whose askers have not left."""
        with self._changed:
            return sum(job.waiting for job in self._queue if not job.future.done())

    @property
    def failure(self) -> str | None:
        """Why the last view failed by itself, or that a pass does not end; None otherwise."""
        for began in self._began:
            if began is not None and (took := time.monotonic() - began) > PATIENCE:
                return f"a forward pass has taken {took:.0f} s so far"
        return self._failure

    def submit(self, prepared: Prepared, request: Request) -> Future[Answer]:
        """Queue a picture. Cancel the future, at any time, and what is left of it is dropped.

        How many may wait is the caller's to say. Raises `Stopped`.
        """
        job = _Job(prepared, request)
        with self._changed:
            if self._stopped:
                raise Stopped("the server is shutting down")
            self._queue.append(job)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job, future))
        return job.future

    def _forget(self, job: _Job, future: Future[Answer]) -> None:
        """Keep nothing of a picture whose asker has left, however long the engines take."""
        with self._changed:
            if future.cancelled() and job in self._queue:
                self._queue.remove(job)

    def close(self) -> None:
        """Take no more pictures, and return when the last one that waits has been answered."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self, index: int, model: Model) -> None:
        while batch := self._next():
            self._began[index] = start = time.monotonic()
            self._run(model, batch)
            self._began[index] = None
            self._observe(len(batch), time.monotonic() - start)
            del batch  # idle, it would keep its pictures

    def _next(self) -> list[_View]:
        """Views of one shape; none when the batcher is closed and its queue empty."""
        with self._changed:
            while True:
                # Who has left, or failed in another batch, is forgotten.
                self._queue = deque(job for job in self._queue if not job.future.done())
                if self._queue:
                    return self._gather()
                if self._stopped:
                    return []
                self._changed.wait()

    def _gather(self) -> list[_View]:
        """As many views as fit, of the oldest picture's shape; who has more left queues again."""
        first = self._queue[0]
        most = max(min(self._largest, self._patches // (first.grid[0] * first.grid[1])), 1)
        batch: list[_View] = []
        for job in [job for job in self._queue if job.grid == first.grid]:
            if len(batch) == most:
                break
            batch += job.take(most - len(batch))
            self._queue.remove(job)
            if job.waiting:
                self._queue.append(job)
        if self._queue:
            self._changed.notify()  # another engine takes what is left
        return batch

    def _run(self, model: Model, batch: Sequence[_View]) -> None:
        try:
            found = _forward(model, batch)
        # Whatever an engine raises: the owners are told, and the thread lives on.
        except Exception as error:
            if len(batch) > 1:  # one view may have spoiled the batch for the others
                for view in batch:
                    self._run(model, [view])
                return
            self._failure = one_line(error)
            with self._changed:
                batch[0].job.fail(error)
            return
        self._failure = None
        with self._changed:
            for view, arrays in zip(batch, found, strict=True):
                view.found = arrays
            for job in dict.fromkeys(view.job for view in batch):
                job.settle()


def _forward(model: Model, batch: Sequence[_View]) -> list[Found]:
    """One pass of the backbone for all; each head for those who asked for it."""
    pixels = model.stack([view.pixels for view in batch])
    requests = [view.job.request for view in batch]
    needed = dict.fromkeys(name for request in requests for name in request.needed)
    features = model.features(pixels, [*needed])
    # Copies, as a view would keep the whole batch for as long as one of its pictures is in work.
    wanted = {output.name for request in requests for output in request.outputs}
    kept = {name: here(features[name]) for name in wanted}
    found: list[Found] = [
        {output.name: kept[output.name][row].copy() for output in request.outputs}
        for row, request in enumerate(requests)
    ]
    for task in dict.fromkeys(head.task for request in requests for head in request.heads):
        rows = [
            row
            for row, request in enumerate(requests)
            if any(head.task == task for head in request.heads)
        ]
        whole = len(rows) == len(batch)
        answers = model.answer(task, features, batch[0].job.grid, None if whole else rows)
        for row, answer in zip(rows, answers, strict=True):
            found[row][task] = answer.copy()
    return found
