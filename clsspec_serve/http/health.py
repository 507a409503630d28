"""Whether the server can answer, and what warms it up."""

from __future__ import annotations

import asyncio
import time
from threading import Event

from clsspec_serve.choices import Task
from clsspec_serve.errors import one_line
from clsspec_serve.http.logs import SERVER
from clsspec_serve.service import Service

PROBE_SECONDS = 1.0
"""The least time between two attempts to use an engine that has failed."""


class Health:
    """Ready from the end of the warm-up until the shutdown, while the engine works.

    `warmed_up` is set at the end of the warm-up, for other threads.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.warmed_up = Event()
        self._state: str | None = "warming up"
        self._probed = 0.0

    async def warm_up(self) -> None:
        """Run each task on blank pictures, alone and in a full batch; then be ready.

        Ends early when the server is to stop.
        """
        heads = [head.task for head in self._service.manifest.heads]
        asked: list[tuple[Task, ...]] = [("cls", "patches"), *((task,) for task in heads)]
        start = time.monotonic()
        try:
            for tasks in asked:
                for count in sorted({1, self._service.capacity.batch}):
                    if self._state == "warming up":
                        await self._service.warm_up(tasks, count)
        # It may work later: until then the readiness probe says what is wrong.
        except Exception:
            SERVER.exception("the warm-up failed")
            await self._probe()
        if self._state == "warming up":
            self._state = None
        self.warmed_up.set()
        SERVER.info("warmed up", extra={"fields": {"seconds": round(time.monotonic() - start, 3)}})

    def drain(self) -> None:
        """Be ready no more, for good."""
        self._state = "shutting down"

    async def reason(self) -> str | None:
        """Why the server is not ready; None when it is.

        An engine that has failed is tried again, so that readiness comes back with it.
        """
        if self._state is None and self._service.failure is not None:
            now = time.monotonic()
            if now - self._probed > PROBE_SECONDS:
                self._probed = now
                await self._probe()
        failure = self._service.failure
        return self._state or (None if failure is None else f"the engine failed: {failure}")

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._service.try_blank(("cls",))
        # What it raises is what `failure` says then.
        except Exception as error:
            SERVER.warning("the engine failed again: %s", one_line(error))
