"""The pictures of a request that are given by address, fetched side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clsspec_serve.http.errors import Refused
from clsspec_serve.http.quota import Quota
from clsspec_serve.http.settings import Settings
from clsspec_serve.http.times import Times

if TYPE_CHECKING:
    from clsspec_serve.http.remote.fetcher import Fetcher

TOGETHER = 64
"""Fetched at the same time, for all requests; more wait."""


@dataclass(frozen=True)
class Link:
    """Where a picture is."""

    url: str


class Links:
    """Fetches pictures if the settings name hosts; what it has fetched counts in `quota`."""

    def __init__(self, settings: Settings, quota: Quota) -> None:
        self._quota = quota
        self._turns = asyncio.Semaphore(TOGETHER)
        self._fetcher = _fetcher(settings) if settings.url_hosts else None

    @asynccontextmanager
    async def followed(
        self, given: Sequence[bytes | Link | Exception], times: Times
    ) -> AsyncIterator[list[bytes | Exception]]:
        """Every picture's bytes, or why there are none; they are held for the block."""
        links = [picture for picture in given if isinstance(picture, Link)]
        with ExitStack() as held:
            fetched = iter(await self._fetched(links, held, times) if links else [])
            yield [next(fetched) if isinstance(picture, Link) else picture for picture in given]

    async def _fetched(
        self, links: Sequence[Link], held: ExitStack, times: Times
    ) -> list[bytes | Exception]:
        with times.measured("fetch"):
            return await asyncio.gather(*(self._follow(link, held) for link in links))

    async def _follow(self, link: Link, held: ExitStack) -> bytes | Exception:
        if self._fetcher is None:
            return Refused(
                422,
                "a picture is given by its address, and this server fetches none (--url-host); "
                "accepted are base64 and data: URIs",
            )
        hold = held.enter_context(self._quota.held())
        try:
            async with self._turns:
                return await self._fetcher.fetch(link.url, hold)
        # Whatever one address brings about, the other pictures are answered.
        except Exception as error:
            hold.give_back()
            return error


def _fetcher(settings: Settings) -> Fetcher:
    # Only who has this on pays for the HTTP client.
    from clsspec_serve.http.remote.fetcher import Fetcher
    from clsspec_serve.http.remote.hosts import AllowedHost
    from clsspec_serve.http.remote.outside import Outside

    hosts = [AllowedHost.parse(text) for text in settings.url_hosts]
    return Fetcher(hosts, settings.body_bytes, settings.fetch_seconds, Outside.real())
