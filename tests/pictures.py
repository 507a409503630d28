"""A photograph, and pictures encoded by hand or by Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
import skimage.data
from PIL import Image

from clsspec_serve.errors import ImageError

PHOTO = Image.fromarray(skimage.data.chelsea()[:120, :180].copy())


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def over(rgb: list[int], alpha: int, background: tuple[int, int, int]) -> list[int]:
    """Alpha compositing in exact arithmetic, rounded to nearest; 255 is odd, so nothing ties."""
    return [
        round((c * alpha + b * (255 - alpha)) / 255) for c, b in zip(rgb, background, strict=True)
    ]


def one_line(excinfo: pytest.ExceptionInfo[ImageError]) -> str:
    message = str(excinfo.value)
    assert "\n" not in message
    return message
