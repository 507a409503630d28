"""The pictures of a request: a raw body, multipart files, or base64 and addresses in JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect

from clsspec_serve.http.errors import Refused
from clsspec_serve.http.json_request import read_json
from clsspec_serve.http.multipart import parse_multipart
from clsspec_serve.http.observation import Departed
from clsspec_serve.http.quota import Quota
from clsspec_serve.http.remote.links import Link
from clsspec_serve.http.settings import Settings

FIELD = "file"
"""The name of the multipart parts that are pictures."""
_RAW = ("application/octet-stream", "application/x-www-form-urlencoded", "")
"""Content types that say nothing; the second is what curl sends for `--data-binary`."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """An encoded picture, where one is, or why there is none; its file's name where it has one."""

    data: bytes | Link | Refused
    name: str | None = None


class ImageBody(BaseModel):
    """A picture, or several, in base64, as `data:` URIs or, where that is on, `https:` ones."""

    model_config = ConfigDict(extra="forbid")

    image: str | None = None
    images: list[str] | None = None


BODIES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
            "application/json": {"schema": ImageBody.model_json_schema()},
        },
    }
}
"""What `pictures_of` reads, for the OpenAPI document."""


class Intake:
    """The bodies of all requests that are in work; `quota` counts their bytes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.quota = Quota(settings.bodies_bytes)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body; its bytes count as long as the block lasts.

        Raises `Refused` (408, 413, 415), `Busy` where there are too many bytes in work, and
        `Departed`.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise Refused(415, "a compressed body; accepted is one without Content-Encoding")
        content = bytearray()
        with self.quota.held() as hold:
            self._check(_announced(request))
            try:
                async with asyncio.timeout(self._settings.seconds):
                    async for chunk in request.stream():
                        self._check(len(content) + len(chunk))
                        hold.reach(len(content) + len(chunk))
                        content += chunk
            except TimeoutError:
                limit = self._settings.seconds
                raise Refused(408, f"the body did not arrive within {limit:g} s") from None
            except ClientDisconnect:
                raise Departed from None
            body = bytes(content)
            content.clear()
            yield body

    def _check(self, amount: int) -> None:
        if amount > self._settings.body_bytes:
            limit = self._settings.body_bytes
            raise Refused(413, f"the body is longer than {limit} bytes (--max-body-mb)")


def pictures_of(content_type: str, body: bytes, settings: Settings) -> list[Picture]:
    """The pictures in a body; raises `Refused`. For a thread, unless the body `is_raw`."""
    kind = _kind(content_type)
    if kind == "multipart/form-data":
        pictures = _files(content_type, body, settings.pictures)
    elif kind == "application/json":
        pictures = _in_json(body, settings.pictures)
    elif is_raw(content_type):
        pictures = [Picture(body)]
    else:
        raise Refused(
            415,
            f"content type {kind}; accepted are image/*, application/octet-stream, "
            "multipart/form-data and application/json",
        )
    empty = not any(picture.data for picture in pictures)
    require_pictures(0 if empty else len(pictures), settings.pictures)
    return pictures


def is_raw(content_type: str) -> bool:
    """Whether a body of that type is a picture itself."""
    kind = _kind(content_type)
    return kind.startswith("image/") or kind in _RAW


def require_pictures(count: int, most: int) -> None:
    """Raise `Refused` where a body has no picture, or more than are accepted."""
    if count < 1:
        raise Refused(422, f"there is no picture in the body; accepted are 1 to {most}")
    if count > most:
        raise Refused(413, f"{count} pictures; accepted are {most}")


def pictures_in(texts: Sequence[str], most: int) -> list[Picture]:
    """Pictures, where they are, or why there are none; raises `Refused` for too many."""
    require_pictures(len(texts), most)
    return [Picture(_in_text(text)) for text in texts]


def decode_base64(text: str) -> bytes:
    """The bytes of base64 or of a `data:` URI that holds it; raises `Refused`.

    Line breaks and spaces do not count.
    """
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise Refused(422, "a data URI without base64; accepted is data:image/...;base64,...")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        start = text[:20] + ("..." if len(text) > 20 else "")
        raise Refused(
            422,
            f"an image is not base64: it begins with {start!r}; accepted is standard base64 with "
            "its padding, or data:image/...;base64,...",
        ) from None


def _in_text(text: str) -> bytes | Link | Refused:
    # No base64 has a colon. Which addresses are followed is not decided here.
    if _ADDRESS.match(text):
        return Link(text)
    try:
        return decode_base64(text)
    except Refused as error:
        return error


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _announced(request: Request) -> int:
    length = request.headers.get("content-length", "0")
    return int(length) if length.isdecimal() else 0


def _files(content_type: str, body: bytes, most: int) -> list[Picture]:
    pictures = []
    for part in parse_multipart(content_type, body, most):
        if part.field_name != FIELD:
            raise Refused(
                422,
                f"the multipart field {part.field_name!r}; accepted is {FIELD!r}, any number of "
                "times; options go into the query string",
            )
        pictures.append(Picture(part.data, part.file_name))
    return pictures


def _in_json(body: bytes, most: int) -> list[Picture]:
    given = read_json(ImageBody, body)
    if (given.image is None) == (given.images is None):
        raise Refused(422, 'the JSON body; accepted is {"image": ...} or {"images": [...]}')
    texts = [given.image] if given.image is not None else given.images or []
    return pictures_in(texts, most)
