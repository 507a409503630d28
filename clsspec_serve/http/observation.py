"""Around every request: its id, its line in the log, its numbers, and an answer whatever fails."""

from __future__ import annotations

import re
import time
import uuid

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clsspec_serve.http.errors import problem_response
from clsspec_serve.http.logs import ACCESS, SERVER
from clsspec_serve.http.metrics import Metrics
from clsspec_serve.http.times import Times
from clsspec_serve.http.tracing import record, trace_id

_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
QUIET = (
    *("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"),
    "/v2/models/{name}/ready",
)
"""Routes that machines ask every few seconds, which would fill the log."""
GONE = 499
"""The status, in the log and the numbers alone, of a request whose client left (nginx's)."""


class Departed(Exception):
    """The client has left; nobody waits for the answer."""


class Observation:
    """The outermost layer. `scope["request_id"]` and `scope["times"]` are for those within."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        given = Headers(scope=scope).get("x-request-id", "")
        # Only what is safe in a header and in a log is taken over.
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        times = Times()
        scope["request_id"], scope["times"] = request_id, times
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
                if times.seconds:
                    headers.append((b"server-timing", times.header().encode()))
                message = {**message, "headers": headers}
                record(times)
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except Departed:
            status = GONE
        # What nobody foresaw is answered too, and its reason stands in the log.
        except Exception as error:
            SERVER.exception("a request failed", extra={"fields": {"request_id": request_id}})
            if status:
                raise
            await problem_response(error, scope)(scope, receive, send_marked)
        finally:
            self._note(scope, status, time.monotonic() - start)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        times: Times = scope["times"]
        self._metrics.requests.labels(route, status).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        for part, took in times.seconds.items():
            self._metrics.part_seconds.labels(part).observe(took)
        if route in QUIET:
            return
        fields = {
            "request_id": scope["request_id"],
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "seconds": round(seconds, 6),
            "client": (scope.get("client") or (None,))[0],
            **({"trace_id": trace} if (trace := trace_id()) else {}),
            **{f"{part}_seconds": round(took, 6) for part, took in times.seconds.items()},
        }
        ACCESS.info("request", extra={"fields": fields})
