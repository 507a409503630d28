"""The network as the fetcher sees it, in three parts that tests have their own of."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

import httpcore
import httpx

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The IP addresses of a host and port; raises `OSError`."""


@dataclass(frozen=True)
class Outside:
    """How names become addresses, addresses become connections, and whose certificates count."""

    resolve: Resolve
    backend: httpcore.AsyncNetworkBackend
    trust: ssl.SSLContext

    @classmethod
    def real(cls) -> Outside:
        """The machine's own; SSL_CERT_FILE and SSL_CERT_DIR replace the usual authorities."""
        trust = httpx.create_ssl_context()
        trust.minimum_version = ssl.TLSVersion.TLSv1_2  # which OpenSSL's configuration may lower
        return cls(resolve, httpcore.AnyIOBackend(), trust)


async def resolve(host: str, port: int) -> list[str]:
    """What the system's resolver says, in its order of preference."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class Pinned(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, whatever the name leads to by now.

    The first that answers is taken. TLS and the Host header, made by httpcore, keep the name.
    """

    def __init__(self, addresses: Sequence[str], inner: httpcore.AsyncNetworkBackend) -> None:
        self._addresses, self._inner = addresses, inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        *others, last = self._addresses
        for address in others:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(last, port, timeout, local_address, socket_options)
