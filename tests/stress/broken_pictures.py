"""Pictures as real data sets have them: some broken in the usual ways, some only unusual."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from pictures import encoded
from PIL import Image

LIMIT = 4000
"""Pixels of the largest picture that is accepted."""
_SIZES = ((28, 42), (42, 28), (28, 28), (30, 60))
_FORMATS = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, JPEG 2000, PPM"
_LARGE = (80, 60)


class Broken(NamedTuple):
    """How a picture is made of a seed, and what is to be said of it: its kind, and a pattern."""

    suffix: str
    content: Callable[[int], bytes]
    kind: str
    words: str


class Picture(NamedTuple):
    """A name, bytes, and what is to be said of them: a kind and a pattern, or None of good ones."""

    name: str
    content: bytes
    failure: tuple[str, str] | None = None


def _image(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    height, width = size or _SIZES[seed % len(_SIZES)]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def _jpeg(seed: int) -> bytes:
    return encoded(_image(seed), "JPEG")


def _png(seed: int) -> bytes:
    return encoded(_image(seed), "PNG")


def _deep(seed: int) -> bytes:
    grey = np.asarray(_image(seed).convert("L")).astype(np.uint16)
    return encoded(Image.fromarray(grey * 257), "PNG")


def _animated(seed: int) -> bytes:
    frames = [_image(seed + index, (28, 42)) for index in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _kept(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def _wrong_crc(seed: int) -> bytes:
    data = bytearray(_png(seed))
    data[29] ^= 1  # of the header, the 13 bytes after 8, 4 and 4
    return bytes(data)


def _flipped(seed: int) -> bytes:
    """One bit in the middle of the pixels of a PNG, so that the CRC behind them is wrong."""
    data = bytearray(_png(seed))
    data[len(data) // 2] ^= 1 << seed % 8
    return bytes(data)


GOOD: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "jpeg": (".jpg", _jpeg),
    "png": (".png", _png),
    "cmyk": (".jpg", lambda seed: encoded(_image(seed).convert("CMYK"), "JPEG")),
    "deep": (".png", _deep),
    "animated": (".gif", _animated),
    "webp": (".webp", lambda seed: encoded(_image(seed), "WEBP", lossless=True)),
    "a png that is called a jpeg": (".JPG", _png),
}
NO_IMAGE = re.escape(f"is not an image; accepted are {_FORMATS}")
EMPTY = re.escape(f"is empty; accepted are {_FORMATS}")
BROKEN: dict[str, Broken] = {
    "empty": Broken(".jpg", lambda seed: b"", "no picture", EMPTY),
    "text": Broken(".png", lambda seed: b"todo: render %d\n" % seed, "no picture", NO_IMAGE),
    "an error page": Broken(
        ".jpg",
        lambda seed: b"<!DOCTYPE html>\n<html><title>404 Not Found</title>\n" + b" " * seed,
        "no picture",
        NO_IMAGE,
    ),
    "a cut jpeg": Broken(
        ".jpg",
        lambda seed: _kept(_jpeg(seed), 0.7),
        "no picture",
        r"JPEG is truncated or damaged: image file is truncated.*",
    ),
    "a jpeg of little more than its start": Broken(
        ".jpg",
        lambda seed: _kept(_jpeg(seed), 0.05),
        "no picture",
        r"JPEG header is truncated or damaged: .+",
    ),
    "a cut png": Broken(
        ".png",
        lambda seed: _kept(_png(seed), 0.6),
        "no picture",
        r"PNG is truncated or damaged: image file is truncated.*",
    ),
    "a wrong crc": Broken(
        ".png",
        _wrong_crc,
        "no picture",
        r"PNG header is truncated or damaged: broken PNG file \(bad header checksum in b'IHDR'\)",
    ),
    "a flipped bit": Broken(
        ".png",
        _flipped,
        "no picture",
        r"PNG is truncated or damaged: (broken data stream|unrecognized data) .+",
    ),
    "too large": Broken(
        ".png",
        lambda seed: encoded(_image(seed, _LARGE), "PNG"),
        "too large",
        rf"has {_LARGE[1]}x{_LARGE[0]} = {_LARGE[0] * _LARGE[1]} pixels; accepted are {LIMIT}",
    ),
}
"""A picture's name ends with the suffix, whatever its bytes are."""


def mixed(count: int, seed: int) -> list[Picture]:
    """Pictures in the order of their names, of which one in twenty is broken, each way in turn."""
    random = np.random.default_rng(seed)
    chosen = random.choice(count, size=max(count // 20, len(BROKEN)), replace=False)
    ways = dict(zip(sorted(chosen.tolist()), _in_turn(len(chosen)), strict=True))
    good = list(GOOD.values())
    found = []
    for index in range(count):
        own = seed + index
        if index in ways:
            broken = ways[index]
            failure = (broken.kind, broken.words)
            found.append(Picture(_name(index, broken.suffix), broken.content(own), failure))
        else:
            suffix, content = good[int(random.integers(len(good)))]
            found.append(Picture(_name(index, suffix), content(own)))
    return found


def _name(index: int, suffix: str) -> str:
    return f"{index // 100:02}/{index:05}{suffix}"


def _in_turn(count: int) -> list[Broken]:
    ways = list(BROKEN.values())
    return [ways[index % len(ways)] for index in range(count)]
