"""A file server on 127.0.0.1 that can cut, change and refuse files."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Request:
    method: str
    path: str
    headers: Message


@dataclass
class FileServer:
    """What is served, how badly, and what was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path, with its leading slash, to content."""
    etags: dict[str, str] = field(default_factory=dict)
    """Path to ETag, quotes included; a path without one is served without any version."""
    redirects: dict[str, str] = field(default_factory=dict)
    refusals: list[int] = field(default_factory=list)
    """Status codes for the next requests, before any is served."""
    cuts: list[int] = field(default_factory=list)
    """Bytes of the body after which the next requests lose their connection."""
    obeys_range: bool = True
    obeys_if_range: bool = True
    announces_length: bool = True
    compresses: bool = False
    most_per_range: int | None = None
    """Bytes that a partial answer holds at most."""
    range_shift: int = 0
    """Bytes by which partial answers start too early."""
    requests: list[Request] = field(default_factory=list)

    def ranges(self) -> list[str | None]:
        """The Range header of each request so far."""
        return [request.headers.get("Range") for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def do_GET(self) -> None:
        self.files.requests.append(Request(self.command, self.path, self.headers))
        if self.files.refusals:
            return self._empty(self.files.refusals.pop(0), {})
        if self.path in self.files.redirects:
            return self._empty(302, {"Location": self.files.redirects[self.path]})
        content = self.files.files.get(self.path)
        if content is None:
            return self._empty(404, {})
        return self._send(content, self.files.etags.get(self.path))

    def _send(self, content: bytes, etag: str | None) -> None:
        start = self._start(etag)
        total = len(content)
        if self.files.compresses:
            content = gzip.compress(content)
        if start is not None and start >= total:
            return self._empty(416, {"Content-Range": f"bytes */{total}"})
        body = content
        if start is not None:
            start -= self.files.range_shift
            body = content[start:][: self.files.most_per_range]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{total}")
        if etag is not None:
            self.send_header("ETag", etag)
        if self.files.compresses:
            self.send_header("Content-Encoding", "gzip")
        if self.files.announces_length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.close_connection = True
        self.end_headers()
        if self.files.cuts:
            body = body[: self.files.cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        return None

    def _start(self, etag: str | None) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or not self.files.obeys_range:
            return None
        if self.files.obeys_if_range and self.headers.get("If-Range", etag) != etag:
            return None
        return int(match[1])

    def _empty(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Nothing: the tests read `requests`."""


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of 127.0.0.1 and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def file_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server without files."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = FileServer()
    with listening(type("Handler", (_Handler,), {"files": files})) as url:
        files.url = url
        yield files


@pytest.fixture
def closed_address(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody listens any more."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with listening(_Handler) as url:
        pass
    return url
