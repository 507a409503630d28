"""Broken and hostile pictures: every format, mutated by a seeded generator, and some by design."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from pictures import PHOTO, encoded, exif, png
from PIL import Image

SMALL = PHOTO.resize((64, 48))
_PALETTE = SMALL.quantize(16)
SEEDS = {
    "jpeg": encoded(SMALL, "JPEG", exif=exif(6)),
    "progressive": encoded(SMALL, "JPEG", progressive=True),
    "cmyk": encoded(SMALL.convert("CMYK"), "JPEG"),
    "png": encoded(SMALL, "PNG"),
    "palette": encoded(_PALETTE, "PNG", transparency=3),
    "deep": encoded(Image.fromarray(np.asarray(SMALL.convert("L")).astype(np.uint16) * 257), "PNG"),
    "webp": encoded(SMALL, "WEBP"),
    "lossless": encoded(SMALL, "WEBP", lossless=True),
    "gif": encoded(_PALETTE, "GIF", save_all=True, append_images=[_PALETTE] * 3),
    "tiff": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "deflated": encoded(SMALL, "TIFF", compression="tiff_adobe_deflate"),
    "bmp": encoded(SMALL, "BMP"),
    "avif": encoded(SMALL, "AVIF"),
    "jpeg 2000": encoded(SMALL, "JPEG2000"),
    "ppm": encoded(SMALL, "PPM"),
}


def designed() -> dict[str, bytes]:
    """Pictures that lie, and those that would fill the memory if they were believed."""
    rows = zlib.compress(b"\0" * 1000)
    huge = png(60_000, 60_000, 8, 2, b"")
    chunk = b"x" * 100 + zlib.compress(b"\0" * 50_000_000)
    text = b"tEXt\0\0" + chunk
    return {
        "a PNG of 60,000 x 60,000": huge,
        "a PNG without any size": png(0, 0, 8, 2, rows),
        "a PNG with a bomb in its text": png(
            4, 4, 8, 2, b"\0" * 52, _chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * 80_000_000))
        ),
        "a PNG with a bomb for a colour profile": png(
            4, 4, 8, 2, b"\0" * 52, _chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 80_000_000))
        ),
        "a PNG with too many pixels in its data": png(4, 4, 8, 2, b"\0" * 10_000_000),
        "a PNG with too few": png(400, 400, 8, 2, b"\0" * 10),
        "a JPEG that says 65,535 x 65,535": _jpeg_of_size(65_535, 65_535),
        "a JPEG of nothing": _jpeg_of_size(0, 0),
        "a BMP of a negative size": SEEDS["bmp"][:18] + struct.pack("<ii", -64, -48) + b"\0" * 100,
        "a GIF of 65,535 x 65,535": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0" * 50,
        "a PPM of 10^9 x 10^9": b"P6 1000000000 1000000000 255\n" + b"\0" * 100,
        "a PPM with an endless header": b"P6 #" + b"x" * 500_000,
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(x) run\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "a ZIP": b"PK\x03\x04" + b"\0" * 100,
        "HTML": b"<!doctype html><title>x</title>",
        "text": text,
        "zeros": b"\0" * 100_000,
    }


def corpus(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """The designed ones, and mutations of all formats in turn up to `count`, with their names."""
    yield from designed().items()
    random = np.random.default_rng(seed)
    names = list(SEEDS)
    for index in range(count - len(designed())):
        name = names[index % len(names)]
        mutation = _MUTATIONS[int(random.integers(len(_MUTATIONS)))]
        data = bytearray(SEEDS[name])
        for _ in range(int(random.integers(1, 4))):
            data = mutation(data, random)
        yield f"{name}, {mutation.__name__}, {index}", bytes(data)


def _cut(data: bytearray, random: np.random.Generator) -> bytearray:
    return data[: int(random.integers(len(data) + 1))]


def _flip_bits(data: bytearray, random: np.random.Generator) -> bytearray:
    for _ in range(int(random.integers(1, 30)) if data else 0):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return data


def _flip_in_the_header(data: bytearray, random: np.random.Generator) -> bytearray:
    for _ in range(int(random.integers(1, 6)) if data else 0):
        data[int(random.integers(min(len(data), 64)))] = int(random.integers(256))
    return data


def _fill(data: bytearray, random: np.random.Generator) -> bytearray:
    start, length = int(random.integers(len(data) + 1)), int(random.integers(200))
    data[start : start + length] = bytes([int(random.choice([0, 255]))]) * length
    return data


def _remove(data: bytearray, random: np.random.Generator) -> bytearray:
    start = int(random.integers(len(data) + 1))
    del data[start : start + int(random.integers(1, 100))]
    return data


def _repeat(data: bytearray, random: np.random.Generator) -> bytearray:
    start = int(random.integers(len(data) + 1))
    part = data[start : start + int(random.integers(1, 500))]
    data[start:start] = part * int(random.integers(1, 20))
    return data


def _splice(data: bytearray, random: np.random.Generator) -> bytearray:
    other = SEEDS[list(SEEDS)[int(random.integers(len(SEEDS)))]]
    return data[: int(random.integers(len(data) + 1))] + other[int(random.integers(len(other))) :]


_MUTATIONS: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    *(_cut, _flip_bits, _flip_in_the_header, _fill, _remove, _repeat, _splice),
)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(SEEDS["jpeg"])
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)
