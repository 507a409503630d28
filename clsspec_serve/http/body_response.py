"""Long answers in chunks, and an end to those that nobody fetches."""

from __future__ import annotations

import asyncio

from fastapi import Response
from starlette.types import Receive, Scope, Send

from clsspec_serve.http.answers import Body
from clsspec_serve.http.observation import Departed

CHUNK = 1 << 20


class BodyResponse(Response):
    """A body of known length; `seconds` without progress end the connection."""

    def __init__(self, body: Body, status: int, seconds: float) -> None:
        super().__init__(body.content, status, dict(body.headers), body.media_type)
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
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
