"""A client's connection: how long it may take, how much it may bring, and how it ends."""

from __future__ import annotations

import asyncio
import uuid
from asyncio import TimerHandle
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from fastapi import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from clsspec_serve.http.errors import Refused, problem_response
from clsspec_serve.http.logs import ACCESS
from clsspec_serve.http.observation import QUIET, Departed
from clsspec_serve.http.settings import Settings

HEAD_BYTES = 64 << 10
"""Of a request line and its headers together, at most; of trailers too."""
_WAITING = 16
"""Requests that a client may send ahead while another of its own is in work."""
_TOO_LONG = (431, f"the request line and the headers are longer than {HEAD_BYTES} bytes")


class Connection(HttpToolsProtocol):
    """uvicorn's, with an end to clients that bring too much or nothing, or take nothing.

    `settings.seconds` are for the headers, from the opening or from their first byte. As many
    without progress in sending end it, whether or not the application is still at it; and as many
    are left to a client that has its last answer, to close.
    """

    settings: ClassVar[Settings]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._application, self.app = self.app, self._answer
        self._deadline: TimerHandle | None = None
        self._fed = 0  # bytes since the last head, body data or end of a request
        self._fault = (400, "this is no HTTP request")
        self._deaf = False  # what comes is dropped
        self._unread = False  # the answer has begun before the request was read to its end
        self._sending: TimerHandle | None = None
        self._drained = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's, too
        """See asyncio."""
        super().connection_made(transport)
        self._expect_within_seconds(self._is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._expect_nothing()
        if self._sending is not None:
            self._sending.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._deaf:
            return
        self._fed += len(data)
        super().data_received(data)
        if self._fed > HEAD_BYTES:
            self._refuse(*_TOO_LONG)
        # Most heads come at once, and cost no timer.
        elif self._fed and self._deadline is None and not self._is_in_body():
            self._expect_within_seconds(self._is_late)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._fed = max(self._fed, 1)  # also where it came with the end of another
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """See httptools."""
        lines = (len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        if len(self.url) + sum(lines) > HEAD_BYTES:
            self._fault = _TOO_LONG
            raise ValueError  # which ends the parsing, and calls `send_400_response`
        if len(self.pipeline) >= _WAITING:
            raise ValueError  # the same; those that wait are answered
        self._fed = 0
        self._expect_nothing()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        self._fed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        self._fed = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        self._watch_sending()
        if self._unread:
            self._close_when_read()
        else:
            super().on_response_complete()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._drained += 1
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """See uvicorn."""
        self._refuse(*self._fault)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, where there are not too many clients for it."""
        begun = ended = False

        async def send_watched(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                await self._begin(scope, send, message)
            else:
                await send(message)
            if self not in self.connections:
                raise Departed  # of which uvicorn says nothing
            ended = message["type"] == "http.response.body" and not message.get("more_body")

        most = self.settings.connections
        crowded = len(self.connections) > most or len(self.tasks) > most
        try:
            with suppress(Departed):
                # What tells the state of a server tells it of a busy one, too.
                if crowded and scope["path"] not in QUIET:
                    refusal = self._refusal(
                        503, f"more than {most} clients are here", scope["path"]
                    )
                    await refusal(scope, receive, send_watched)
                else:
                    await self._application(scope, receive, send_watched)
        finally:
            if begun and not ended:
                self.transport.abort()  # uvicorn's close would wait for the client
                await asyncio.sleep(0)  # for uvicorn to hear of it

    async def _begin(self, scope: Scope, send: Send, message: Message) -> None:
        cycle = self.cycle
        if cycle.scope is not scope or not cycle.more_body:
            await send(message)
            return
        self._unread = True
        headers = [*message.get("headers", ())]
        if CLOSE_HEADER not in headers:
            headers.append(CLOSE_HEADER)
        await send({**message, "headers": headers})
        cycle.keep_alive = True  # so that not uvicorn closes, but `_close_when_read`

    def _is_in_body(self) -> bool:
        return self.cycle is not None and self.cycle.more_body

    def _is_late(self) -> None:
        if self._fed:
            self._refuse(408, f"the headers did not arrive within {self.settings.seconds:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, unless answers are due, and read no more."""
        if self._deaf or self.transport.is_closing():
            return
        self._deaf = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.keep_alive = False
            if self.pipeline or cycle.response_started or not cycle.more_body:
                return
            # It is the body of this request: the application hears that nobody waits.
            cycle.disconnected, cycle.waiting_for_100_continue = True, False
            cycle.message_event.set()
        response = self._refusal(status, message)
        fields = (*self.server_state.default_headers, *response.raw_headers)
        lines = [STATUS_LINE[status], *(b"%b: %b\r\n" % field for field in fields), b"\r\n"]
        self.transport.write(b"".join((*lines, response.body)))
        self._close_when_read()

    def _refusal(self, status: int, message: str, path: str = "") -> Response:
        request_id = uuid.uuid4().hex
        response = problem_response(
            Refused(status, message), {"path": path, "request_id": request_id}
        )
        response.headers["X-Request-Id"] = request_id
        response.headers["Connection"] = "close"
        fields = {
            "request_id": request_id,
            "path": path,
            "status": status,
            "reason": message,
            "client": (self.client or (None,))[0],
        }
        ACCESS.info("refused", extra={"fields": fields})
        return response

    def _close_when_read(self) -> None:
        """Close after the client did: with something unread, its answer would be lost."""
        self._deaf = True
        if self.transport.is_closing():
            return
        self._expect_within_seconds(self.transport.abort)
        self.flow.resume_reading()
        with suppress(OSError):  # where it has left already
            self.transport.write_eof()

    def _watch_sending(self) -> None:
        if self._sending is None:
            self._look_at_sending(None)

    def _look_at_sending(self, before: tuple[int, int] | None) -> None:
        left = self.transport.get_write_buffer_size()
        now = (self._drained, left)
        self._sending = None
        if now == before and left:
            self.transport.abort()
        elif left:
            seconds = self.settings.seconds
            self._sending = self.loop.call_later(seconds, self._look_at_sending, now)

    def _expect_within_seconds(self, otherwise: Callable[[], None]) -> None:
        self._expect_nothing()
        self._deadline = self.loop.call_later(self.settings.seconds, otherwise)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def connection_type(chosen: Settings) -> type[Connection]:
    """What uvicorn makes for each client."""

    class Limited(Connection):
        settings = chosen

    return Limited
