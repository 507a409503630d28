"""A real S3 server on this machine, moto's, which fails where a test tells it to."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import SHUT_RDWR
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{words}</Message>'
    "<RequestId>1</RequestId></Error>"
)
_ANSWERS = {
    "500": ("500 Internal Server Error", "InternalError", "We encountered an internal error."),
    "two lines": ("500 Internal Server Error", "InternalError", "An internal error.\nTry again."),
    "503": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "denied": ("403 Forbidden", "AccessDenied", "Access Denied"),
}
_STALL = 2.0
"""Seconds."""


@dataclass
class Fault:
    """Requests of one kind, `GET`, `HEAD`, `PUT`, `DELETE` or `LIST`, of keys that a pattern fits.

    `answer`: `500`, `two lines`, `503`, `denied`; `reset`, a connection that ends without one;
    `stall`, the same after a while; `cut`, the right one's first half. `skip`: how many such
    requests go well before. `times`: how many fail then; None is all of them. `seen`: how many
    there were.
    """

    kind: str
    key: str
    answer: str
    times: int | None = None
    skip: int = 0
    seen: int = 0

    @property
    def failed(self) -> int:
        """How many requests have failed."""
        late = max(self.seen - self.skip, 0)
        return late if self.times is None else min(late, self.times)

    def meets(self, kind: str, key: str) -> bool:
        """Whether this request fails."""
        if kind != self.kind or not re.fullmatch(self.key, key):
            return False
        self.seen += 1
        return self.seen > self.skip and (self.times is None or self.seen <= self.skip + self.times)


@dataclass
class FaultyStore:
    """The server; `faults` may be changed at any time."""

    address: str = ""
    faults: list[Fault] = field(default_factory=list)
    _app: Any = field(default_factory=lambda: DomainDispatcherApplication(create_backend_app))
    _lock: Lock = field(default_factory=Lock)

    def fail(self, kind: str, key: str, answer: str, **how: int) -> Fault:
        """From now on."""
        self.faults.append(Fault(kind, key, answer, **how))
        return self.faults[-1]

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        kind, key = _asked(environ)
        with self._lock:
            found = [fault.answer for fault in self.faults if fault.meets(kind, key)]
        if not found:
            return self._app(environ, start)
        answer = found[0]
        if answer == "cut":
            return _halved(self._app(environ, start), environ)
        # What is left of a body would be taken for the next request.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if answer == "stall":
            time.sleep(_STALL)
        if answer in ("reset", "stall"):
            raise _hung_up(environ)
        status, code, words = _ANSWERS[answer]
        body = b"" if kind == "HEAD" else _ERROR.format(code=code, words=words).encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


@contextmanager
def faulty_store() -> Iterator[FaultyStore]:
    """A server that works so far."""
    store = FaultyStore()
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=MotoRequestHandler)
    store.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _asked(environ: dict[str, Any]) -> tuple[str, str]:
    """What is asked for, and the bucket with the key; of a listing with the prefix."""
    query = environ["QUERY_STRING"]
    key = environ["PATH_INFO"].strip("/")
    if environ["REQUEST_METHOD"] == "GET" and "list-type=2" in query:
        prefix = parse_qs(query).get("prefix", [""])[0]
        return "LIST", f"{key}/{prefix}"
    return environ["REQUEST_METHOD"], key


def _halved(body: Iterable[bytes], environ: dict[str, Any]) -> Iterator[bytes]:
    """Half of an answer whose headers promise all of it."""
    whole = b"".join(body)
    yield whole[: len(whole) // 2]
    raise _hung_up(environ)


def _hung_up(environ: dict[str, Any]) -> ConnectionResetError:
    """End the connection; the error is the one that werkzeug takes for a client that left."""
    environ["werkzeug.socket"].shutdown(SHUT_RDWR)
    return ConnectionResetError()
