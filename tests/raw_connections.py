"""Connections to a server without a client library around them."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from http_server import Running

SECONDS = 0.5
"""The server's patience."""
LONG = 8
"""Seconds in which what has an end has come to it, on a busy machine too."""
GET = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"


def raw(server: Running) -> socket.socket:
    """A connection without a client library around it."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=LONG)


def rest(connection: socket.socket, pause: float = 0) -> bytes:
    """All that comes until the server closes; also where it cuts the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while chunk := connection.recv(4096):
            received += chunk
            time.sleep(pause)
    return bytes(received)


def given_up(server: Running, route: str) -> float:
    """How many requests are counted as ones whose client left."""
    found = re.search(rf'"{route}",status="499"}} (.+)', server.client.get("/metrics").text)
    return float(found[1]) if found else 0


def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
