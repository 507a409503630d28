"""The middle of every request that has pictures: they are worked on, counted and written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request

from clsspec_serve.errors import ClsspecError, ImageError
from clsspec_serve.http.answers import Body
from clsspec_serve.http.body_response import BodyResponse
from clsspec_serve.http.errors import UNFORESEEN, Refused, describe, status_of
from clsspec_serve.http.intake import Picture
from clsspec_serve.http.logs import SERVER
from clsspec_serve.http.metrics import Metrics
from clsspec_serve.http.observation import Departed
from clsspec_serve.http.quota import Quota
from clsspec_serve.http.remote.links import Links
from clsspec_serve.http.results import Result
from clsspec_serve.http.settings import Settings
from clsspec_serve.http.times import Times
from clsspec_serve.predictor import Prediction
from clsspec_serve.request import Request as Asked
from clsspec_serve.service import Found, Outcome, Service

T = TypeVar("T")
Write = Callable[[Sequence[Result]], T]


class Work:
    """What all routes do with pictures."""

    def __init__(
        self, service: Service, settings: Settings, metrics: Metrics, links: Links
    ) -> None:
        self.service, self.settings = service, settings
        self.answers = Quota(settings.answers_bytes)
        self._metrics, self._links = metrics, links

    def response(self, body: Body, status: int = 200) -> BodyResponse:
        """The answer that sends a body."""
        return BodyResponse(body, status, self.settings.seconds, self.answers)

    async def in_time(self, request: Request, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, of a request whose body has been read to its end.

        Raises `TimeoutError`, and `Departed` when the client left; the work is cancelled.
        """
        async with asyncio.timeout(self.settings.seconds):
            return await _unless_departed(request, work)

    async def done(
        self,
        scope: Any,
        pictures: Sequence[Picture],
        asked: Asked,
        write: Write[T],
        *,
        partly: bool,
    ) -> tuple[T, bool]:
        """What `write` makes of the results, and whether all pictures were answered.

        Raises the first picture's error where all of them failed, or any, unless `partly`.
        """
        times: Times = scope["times"]
        request_id: str = scope["request_id"]

        def written(outcomes: Sequence[Outcome]) -> tuple[T, bool]:
            finished = [self._finished(outcome, asked) for outcome in outcomes]
            failed = [each for each in finished if isinstance(each, Exception)]
            self._note_failures(failed, len(finished), request_id)
            if failed and (not partly or len(failed) == len(finished)):
                raise _named(failed[0], finished)
            results = [
                Result(
                    picture.name,
                    describe(each, request_id) if isinstance(each, Exception) else each,
                )
                for picture, each in zip(pictures, finished, strict=True)
            ]
            return write(results), not failed

        async with self._found(pictures, asked, times) as outcomes:
            _note_times(outcomes, times)
            with times.measured("encode"):
                if _has_maps(asked) or len(pictures) > 1:
                    return await self.service.in_encoder(written, outcomes)
                # A few numbers are written sooner than a thread is woken.
                return written(outcomes)

    @asynccontextmanager
    async def _found(
        self, pictures: Sequence[Picture], asked: Asked, times: Times
    ) -> AsyncIterator[Sequence[Outcome]]:
        """Of each picture, also where it could not be fetched."""
        given = [picture.data for picture in pictures]
        async with self._links.followed(given, times) as fetched:
            there = [picture for picture in fetched if isinstance(picture, bytes)]
            async with self.service.found(there, asked) as found:
                rest = iter(found)
                yield [each if isinstance(each, Exception) else next(rest) for each in fetched]

    def _finished(self, outcome: Outcome, asked: Asked) -> Prediction | Exception:
        if isinstance(outcome, Exception):
            return outcome
        try:
            return self.service.finish(outcome, asked)
        # Whatever one picture brings about, the others of the request are answered.
        except Exception as error:
            return error

    def _note_failures(self, failed: Sequence[Exception], of: int, request_id: str) -> None:
        """Numbers, and in the log what no client is told."""
        self._metrics.pictures.labels("answered").inc(of - len(failed))
        self._metrics.pictures.labels("failed").inc(len(failed))
        for error in failed:
            if status_of(error) == 500:
                fields = {"request_id": request_id}
                SERVER.error("a picture failed", exc_info=error, extra={"fields": fields})


def _has_maps(asked: Asked) -> bool:
    """Whether answers are as large as grids or pictures."""
    patches = any(output.kind == "patches" for output in asked.outputs)
    return patches or any(head.task != "classify" for head in asked.heads)


def _note_times(outcomes: Sequence[Outcome], times: Times) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Found):
            answer = outcome.answer
            times.note("decode", outcome.decoded.started, outcome.decoded.seconds)
            times.note("queue", answer.submitted, answer.queued)
            times.note("model", answer.submitted + answer.queued, answer.ran)


def _named(error: Exception, finished: Sequence[Prediction | Exception]) -> Exception:
    """The error; of several pictures a bad one's says which one it was.

    What nobody foresaw stands in the log already, and its words are not for clients.
    """
    if not isinstance(error, ClsspecError):
        return Refused(500, UNFORESEEN)
    if len(finished) == 1:
        return error
    message = f"picture {finished.index(error)}: {error}"
    if isinstance(error, Refused):
        return Refused(error.status, message)
    return type(error)(message) if isinstance(error, ImageError) else error


async def _unless_departed(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled, and `Departed` raised, when the client leaves."""
    here = asyncio.current_task()
    departed = finished = False

    def cancel(leaving: asyncio.Task[None]) -> None:
        nonlocal departed
        if here is not None and not finished and not leaving.cancelled():
            departed = True
            here.cancel()

    leaving = asyncio.create_task(_departure(request))
    leaving.add_done_callback(cancel)
    try:
        return await work
    except asyncio.CancelledError:
        if departed and here is not None and here.uncancel() == 0:
            raise Departed from None
        raise
    finally:
        finished = True  # a callback that is on its way comes too late
        leaving.cancel()


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
