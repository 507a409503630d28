"""uvicorn, and how it stops: not ready, then no more connections, then no more work."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

import uvicorn
from fastapi import FastAPI

from clsspec_serve.errors import UsageError, one_line
from clsspec_serve.http.connection import connection_type
from clsspec_serve.http.health import Health
from clsspec_serve.http.settings import Settings

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 2048
_KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than load balancers keep theirs."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `UsageError` when the address cannot be had.

    Its protocol is named, which `socket.create_server` does not do: only then does asyncio set
    TCP_NODELAY on connections, without which each answer waits 40 ms for an acknowledgement.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        known = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(known) if known and known > 0 else one_line(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}") from error


class Server(uvicorn.Server):
    """`run(sockets=[...])` serves until SIGTERM or SIGINT; the second one waits for nothing."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE,
                # As long as a request that has just begun may take to be read and answered.
                timeout_graceful_shutdown=math.ceil(2 * settings.seconds),
                http=connection_type(settings),
                ws="none",
            )
        )
        self._health: Health = app.state.health
        self._drain_seconds = settings.drain_seconds
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours, so that a stop as asked for ends with exit code 0."""
        if current_thread() is not main_thread():
            yield
            return
        before = {number: signal.signal(number, self._signalled) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Turn readiness off now, and stop a little later; asked again, without waiting."""
        if self._stopping:
            self.should_exit = self.force_exit = True
            return
        self._stopping = True
        self._health.drain()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_seconds, self._stop)

    def end_process(self) -> None:
        """Without the threads that decode, which nothing can stop before they are done."""
        os._exit(1)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._loop = asyncio.get_running_loop()
        asked = self._stopping  # when there was no loop to tell
        await super().startup(sockets)
        if asked:
            self._loop.call_soon(self._stop)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn; connections that are left are cut."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _signalled(self, sig: int, frame: FrameType | None) -> None:
        if self._stopping:
            self.end_process()
        self.handle_exit(sig, frame)

    def _stop(self) -> None:
        self.should_exit = True
