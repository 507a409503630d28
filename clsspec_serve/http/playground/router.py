"""The page and its files over HTTP."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response

from clsspec_serve.http.errors import Refused
from clsspec_serve.pictures.colormap import colour_levels
from clsspec_serve.pictures.depths import COLORMAP, CONTRAST
from clsspec_serve.pictures.look import PAINT, SIMILARITY_COLORMAP

_PAGE = "page.html"
_COLOURS = "colours.js"
_FILES = (
    *("page.css", "page.js", "server.js", "panels.js", "point.js", "elements.js"),
    *("patches.js", "png.js", "paint.js", "calls.js", _COLOURS),
)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

PATHS = ("/", *(f"/playground/{name}" for name in _FILES))
"""What has to be readable without an API key: the page asks for it."""


def playground() -> APIRouter:
    """The routes of `PATHS`; the files are read once."""
    router = APIRouter(include_in_schema=False)
    contents = {name: _content(name) for name in (_PAGE, *_FILES)}
    packed = {name: gzip.compress(content, mtime=0) for name, content in contents.items()}
    tags = {name: f'W/"{sha256(content).hexdigest()[:32]}"' for name, content in contents.items()}

    def answer(request: Request, name: str) -> Response:
        headers = _HEADERS | {"ETag": tags[name], "Vary": "Accept-Encoding"}
        known = request.headers.get("if-none-match", "").split(",")
        if tags[name] in (tag.strip() for tag in known):
            return Response(status_code=304, headers=headers)
        content = contents[name]
        if "gzip" in request.headers.get("accept-encoding", ""):
            content = packed[name]
            headers["Content-Encoding"] = "gzip"
        media_type = f"{_TYPES[Path(name).suffix]}; charset=utf-8"
        return Response(content, headers=headers, media_type=media_type)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return answer(request, _PAGE)

    @router.api_route("/playground/{name}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        if name not in _FILES:
            raise Refused(404, f"there is no {name}; the page has {', '.join(_FILES)}")
        return answer(request, name)

    return router


def _content(name: str) -> bytes:
    if name == _COLOURS:
        return _colours().encode()
    return (Path(__file__).parent / name).read_bytes()


def _colours() -> str:
    """The colour maps and how they are laid over numbers, as a module of constants."""
    constants = {
        "DEPTH": b64encode(colour_levels(COLORMAP).tobytes()).decode(),
        "SIMILARITY": b64encode(colour_levels(SIMILARITY_COLORMAP).tobytes()).decode(),
        "CONTRAST": CONTRAST,
        "PAINT": PAINT,
    }
    return "".join(
        f"export const {name} = {json.dumps(value)};\n" for name, value in constants.items()
    )
