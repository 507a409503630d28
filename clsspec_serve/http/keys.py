"""API keys: who may ask."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from clsspec_serve.http.document import DOCUMENT, FILES, PAGE
from clsspec_serve.http.errors import Refused, problem_response
from clsspec_serve.http.playground.router import PATHS

OPEN = (
    *(*PATHS, PAGE, DOCUMENT),
    *("/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"),
)
"""Paths that need no key: the pages, which ask for one, and what load balancers look at."""


class Keys:
    """Lets requests pass that carry a key as `Authorization: Bearer` or `X-API-Key`."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        # Digests are of one length, so the comparison tells nothing of it.
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if (
            scope["type"] != "http"
            or _is_open(scope["path"])
            or self._has_key(Headers(scope=scope))
        ):
            await self._app(scope, receive, send)
            return
        error = Refused(401, "a valid API key is needed, as Authorization: Bearer or X-API-Key")
        await problem_response(error, scope)(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = _digest(given.encode("latin-1"))  # which Starlette read the bytes as
        # All are compared, whichever fits.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(f"{FILES}/")


def _digest(key: bytes) -> bytes:
    return sha256(key).digest()
