"""The middle of every request that has pictures: they are worked on, counted and written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from clsspec_serve.http.errors import describe, status_of
from clsspec_serve.http.intake import Picture
from clsspec_serve.http.logs import SERVER
from clsspec_serve.http.metrics import Metrics
from clsspec_serve.http.observation import Departed
from clsspec_serve.http.results import Result
from clsspec_serve.http.settings import Settings
from clsspec_serve.http.times import Times
from clsspec_serve.request import Request as Asked
from clsspec_serve.service import Found, Outcome, Service

T = TypeVar("T")
Write = Callable[[Sequence[Result]], T]


class Work:
    """What all routes do with pictures."""

    def __init__(self, service: Service, settings: Settings, metrics: Metrics) -> None:
        self.service, self.settings = service, settings
        self._metrics = metrics

    async def done(
        self,
        request: Request,
        pictures: Sequence[Picture],
        asked: Asked,
        write: Write[T],
        *,
        partly: bool,
    ) -> tuple[T, bool]:
        """What `write` makes of the results, in a thread, and whether all pictures were answered.

        For after the body has been read to its end. Raises the first picture's error where all of
        them failed, or any, unless `partly`; `TimeoutError`; and `Departed` when the client left.
        """
        async with asyncio.timeout(self.settings.seconds):
            return await _unless_departed(
                request, self._done(request.scope, pictures, asked, write, partly)
            )

    async def _done(
        self,
        scope: Any,
        pictures: Sequence[Picture],
        asked: Asked,
        write: Write[T],
        partly: bool,
    ) -> tuple[T, bool]:
        times: Times = scope["times"]
        request_id: str = scope["request_id"]

        def written(outcomes: Sequence[Outcome]) -> T:
            return write(
                [
                    Result(picture.name, self._outcome(outcome, asked, request_id))
                    for picture, outcome in zip(pictures, outcomes, strict=True)
                ]
            )

        async with self.service.found([each.data for each in pictures], asked) as outcomes:
            self._note(outcomes, times, request_id)
            failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            if failed and (not partly or len(failed) == len(outcomes)):
                raise failed[0]
            with times.measured("encode"):
                return await self.service.encoding(written, outcomes), not failed

    def _outcome(self, outcome: Outcome, asked: Asked, request_id: str) -> Any:
        if isinstance(outcome, Found):
            return self.service.finish(outcome, asked)
        return describe(outcome, request_id)

    def _note(self, outcomes: Sequence[Outcome], times: Times, request_id: str) -> None:
        """Times, numbers, and in the log what no client is told."""
        for outcome in outcomes:
            if isinstance(outcome, Found):
                times.longest("decode", outcome.decoding)
                times.longest("queue", outcome.answer.queued)
                times.longest("model", outcome.answer.ran)
                self._metrics.pictures.labels("answered").inc()
                continue
            self._metrics.pictures.labels("failed").inc()
            if status_of(outcome) == 500:
                fields = {"request_id": request_id}
                SERVER.error("a picture failed", exc_info=outcome, extra={"fields": fields})


async def _unless_departed(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled, and `Departed` raised, when the client leaves."""
    answering = asyncio.create_task(work)
    leaving = asyncio.create_task(_departure(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise Departed
    finally:
        leaving.cancel()
        answering.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
