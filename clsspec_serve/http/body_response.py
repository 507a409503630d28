"""Long answers in chunks, and an end to those that nobody fetches."""

from __future__ import annotations

import asyncio

from fastapi import Response
from starlette.types import Receive, Scope, Send

from clsspec_serve.http.answers import Body
from clsspec_serve.http.observation import Departed
from clsspec_serve.http.quota import Quota

CHUNK = 1 << 20


class BodyResponse(Response):
    """A body of known length, which counts in `quota` until it is sent.

    `seconds` without progress end the connection. Raises `Busy` instead of beginning.
    """

    def __init__(self, body: Body, status: int, seconds: float, quota: Quota) -> None:
        super().__init__(body.content, status, dict(body.headers), body.media_type)
        self._seconds, self._quota = seconds, quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with self._quota.held() as hold:
            hold.reach(len(self.body))
            await self._send(send)

    async def _send(self, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        content = memoryview(self.body)
        try:
            for start in range(0, max(len(content), 1), CHUNK):
                chunk = bytes(content[start : start + CHUNK])
                more = start + CHUNK < len(content)
                async with asyncio.timeout(self._seconds):
                    await send({"type": "http.response.body", "body": chunk, "more_body": more})
        except TimeoutError:
            raise Departed from None
