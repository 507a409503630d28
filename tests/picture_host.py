"""An https server on loopback that claims to be a public one, and the network in which it is."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpcore

from clsspec_serve.http.remote.outside import Outside

NAME = "pictures.example.org"
PUBLIC = "93.184.215.14"
"""What `NAME` resolves to, and where connections to the server seem to go."""

Page = Callable[[BaseHTTPRequestHandler], None]


@dataclass(frozen=True)
class Certificate:
    """A self-signed one and its key, both PEM."""

    path: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        """Trusts this certificate alone, for the names in it."""
        return ssl.create_default_context(cafile=str(self.path))


def certificate(folder: Path, name: str = NAME) -> Certificate:
    """Make one for a host name."""
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    command = (
        *("openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-addext", f"subjectAltName=DNS:{name}"),
        *("-out", str(made.path), "-keyout", str(made.key)),
    )
    subprocess.run(command, check=True, capture_output=True)
    return made


@dataclass
class PictureHost:
    """What the server gives by path, and what it was asked: paths with headers, and TLS names."""

    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self, certificate: Certificate) -> Iterator[None]:
        """Answer for the block."""
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
                try:
                    host.pages[self.path](self)
                except OSError:  # the client has had enough
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                return

        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.path, certificate.key)
        context.sni_callback = lambda _, name, __: host.names.append(name)
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def page(content: bytes, status: int = 200, **headers: str) -> Page:
    """An answer of known length; `_` in the names of headers is `-`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(content))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def redirect(location: str, status: int = 302) -> Page:
    """An answer that leads elsewhere."""
    return page(b"", status, Location=location)


@dataclass
class Internet(httpcore.AsyncNetworkBackend):
    """Names, their addresses and who is there; keeps what was looked up and connected to.

    `answers`: for each name the addresses, one list for each time it is looked up; the last one
    stays.
    """

    host: PictureHost
    answers: dict[str, list[list[str]]] = field(default_factory=lambda: {NAME: [[PUBLIC]]})
    reachable: Sequence[str] = (PUBLIC,)
    looked_up: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)

    def outside(self, trust: ssl.SSLContext) -> Outside:
        """The network as the fetcher sees it."""
        return Outside(self.resolve, self, trust)

    async def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        if host not in self.answers:
            raise OSError("no such name")
        answers = self.answers[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        if host not in self.reachable:
            raise httpcore.ConnectError("nobody is there")
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.host.port, timeout)
