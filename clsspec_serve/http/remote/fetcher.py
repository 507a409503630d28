"""One address → the bytes that are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

import httpcore
import httpx

from clsspec_serve.errors import one_line
from clsspec_serve.http.errors import Refused
from clsspec_serve.http.quota import Hold
from clsspec_serve.http.remote.hosts import AllowedHost, allowed, port_of
from clsspec_serve.http.remote.outside import Outside, Pinned
from clsspec_serve.http.remote.public import is_public

REDIRECTS = 5
CONNECT_SECONDS = 2.0
"""For each of a host's addresses."""

_REDIRECTED = (301, 302, 303, 307, 308)
_OK = 200
_FAILED = 424
"""Not of the 5xx, which would have a load balancer take this server for a broken one."""


@dataclass(frozen=True)
class Fetcher:
    """Fetches from `hosts`, at most `most` bytes, within `seconds` from the first name on."""

    hosts: Sequence[AllowedHost]
    most: int
    seconds: float
    outside: Outside

    async def fetch(self, address: str, hold: Hold) -> bytes:
        """The bytes, which `hold` comes to while they arrive.

        Each redirect is checked as the address itself is. Raises `Refused`: 422 for what is not
        allowed, 413 for what is too long, 424 where nothing was to be had; and `Busy`.
        """
        url = allowed(address, self.hosts)
        try:
            async with asyncio.timeout(self.seconds):
                for _ in range(REDIRECTS + 1):
                    async with self._opened(url) as response:
                        if response.status not in _REDIRECTED:
                            return await self._body(response, url, hold)
                        target = _target(response, url)
                    url = allowed(target, self.hosts)
        except TimeoutError:
            raise _failed(url, f"it took longer than {self.seconds:g} s") from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise _failed(url, one_line(error)) from error
        raise _failed(url, f"more than {REDIRECTS} redirects")

    @asynccontextmanager
    async def _opened(self, url: httpx.URL) -> AsyncIterator[httpcore.Response]:
        backend = Pinned(await self._addresses(url), self.outside.backend)
        headers: Sequence[tuple[str, bytes | str]] = (
            ("Host", url.netloc),
            ("User-Agent", f"clsspec-serve/{version('clsspec-serve')}"),
            ("Accept", "image/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        )
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=port_of(url), target=url.raw_path
        )
        # A pool for one request: a connection is never used for another name than it was made for.
        # And no proxy, which would resolve the name by itself.
        async with (
            httpcore.AsyncConnectionPool(self.outside.trust, network_backend=backend) as pool,
            pool.stream(
                "GET",
                target,
                headers=headers,
                extensions={"timeout": {"connect": CONNECT_SECONDS}},
            ) as response,
        ):
            yield response

    async def _addresses(self, url: httpx.URL) -> Sequence[str]:
        try:
            found = await self.outside.resolve(url.raw_host.decode("ascii"), port_of(url))
        except (OSError, UnicodeError) as error:
            raise _failed(url, "its name has no address") from error
        if not found:
            raise _failed(url, "its name has no address")
        # All of them: a name with one address inside is somebody's attempt.
        if not all(map(is_public, found)):
            raise Refused(422, f"{url.host} leads to an address that is not public")
        return found

    async def _body(self, response: httpcore.Response, url: httpx.URL, hold: Hold) -> bytes:
        if response.status != _OK:
            raise _failed(url, f"HTTP {response.status}")
        headers = httpx.Headers(response.headers)
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise _failed(url, f"its answer is encoded as {encoding[:20]}, which was not asked for")
        content = bytearray()
        self._check(int(headers.get("content-length", 0)), url)  # h11 lets only digits pass
        async for chunk in response.aiter_stream():
            self._check(len(content) + len(chunk), url)
            hold.reach(len(content) + len(chunk))
            content += chunk
        return bytes(content)

    def _check(self, length: int, url: httpx.URL) -> None:
        if length > self.most:
            raise Refused(413, f"the picture at {url.host} is longer than {self.most} bytes")


def _target(response: httpcore.Response, url: httpx.URL) -> str:
    location = httpx.Headers(response.headers).get("location")
    if not location:
        raise _failed(url, f"HTTP {response.status} that leads nowhere")
    try:
        return str(url.join(location))
    except (httpx.InvalidURL, ValueError) as error:  # the second is urllib's
        raise _failed(url, f"its redirect cannot be read: {one_line(error)}") from error


def _failed(url: httpx.URL, reason: str) -> Refused:
    return Refused(_FAILED, f"cannot fetch the picture from {url.host[:200]}: {reason}")
