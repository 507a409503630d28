"""The OpenAPI document, and its page with nothing from outside of this machine."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

DOCUMENT = "/openapi.json"
PAGE = "/docs"
FILES = "/docs/files"
"""Below this are the page's scripts and styles."""


def documented_app(**options: Any) -> FastAPI:
    """An application without routes but for its document and the page of that."""
    return FastAPIOffline(
        title="clsspec",
        summary="Features, masks and depth of pictures.",
        version=version("clsspec-serve"),
        openapi_url=DOCUMENT,
        docs_url=PAGE,
        static_url=FILES,
        redoc_url=None,
        **options,
    )


def describe_keys(app: FastAPI) -> None:
    """Let the document say that a key is needed, so that the page can ask for one and send it."""
    without = app.openapi
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }

    def with_keys() -> dict[str, Any]:
        document = without()
        components = document["components"] | {"securitySchemes": schemes}
        return document | {"components": components, "security": [{name: []} for name in schemes]}

    app.openapi = with_keys  # type: ignore[method-assign]  # as FastAPI's documentation says
