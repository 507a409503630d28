"""JPEG 2000: tiles, components, packets and code-blocks, of which OpenJPEG makes tables."""

from __future__ import annotations

import re
import struct
from itertools import islice

from clsspec_serve.bombs.counting import refuse_more
from clsspec_serve.errors import ImageError

_COMPONENTS = 4
"""As many as Pillow reads, once OpenJPEG has taken memory for all."""
_TILES = 1024
"""At most, or one for so many of the picture's pixels: OpenJPEG takes 10 kB for each."""
_PACKETS, _PIXELS_PER_PACKET = 32768, 128
"""In the same way: a kilobyte for each precinct and half a microsecond for each packet."""
_BLOCKS, _PIXELS_PER_BLOCK = 65536, 64
"""Code-blocks in the same way: 300 bytes each."""
_STYLES = 1024
"""Coding styles, at most: one for the picture, and one for each component of some tiles."""
# Levels and code-block exponents, then precinct exponents. COD has the number of layers before
# them, COC a component. What is coded looks like either once in 10^15 bytes.
_STYLE = rb"([\x00-\x20][\x00-\x08]{2})[\x00-\x7f][\x00\x01](.{0,33})"
_COD = re.compile(
    rb"\xff\x52(?=\x00[\x0c-\x2d]([\x00-\x07]).(..)[\x00\x01]" + _STYLE + rb")", re.DOTALL
)
_COC = re.compile(rb"\xff\x53(?=\x00[\x09-\x2a][\x00-\x03](.)" + _STYLE + rb")", re.DOTALL)


def refuse_jpeg2000(data: bytes, pixels: int, name: str) -> None:
    """Raise ImageError for more of them than a picture of so many pixels has.

    A header of 100 bytes can ask for any number.
    """
    code = _codestream(data)
    if not code.startswith(b"\xff\x4f\xff\x51"):
        raise ImageError(f"{name}: JPEG 2000 header is truncated or damaged: has no size")
    right, bottom, left, top, *grid, components = struct.unpack_from(">8IH", code, 8)
    across, down, from_left, from_top = grid
    tiles = _parts(right - from_left, across) * _parts(bottom - from_top, down)
    width, height = min(right - left, across), min(bottom - top, down)
    refuse_more(components, _COMPONENTS, "components", name)
    refuse_more(tiles, max(_TILES, pixels // _TILES), "tiles", name)

    styles = list(islice(_COD.finditer(code), _STYLES + 1))
    layers = max((int.from_bytes(style[2], "big") for style in styles), default=1)
    styles += islice(_COC.finditer(code), _STYLES + 1)
    refuse_more(len(styles), _STYLES, "coding styles", name)
    packets = blocks = 0
    for style in styles:
        flags, (levels, wide, high), sizes = style[1][0], *style.groups()[-2:]
        sizes = sizes[: levels + 1] if flags & 1 else bytes([0xFF]) * (levels + 1)
        precincts = sum(
            _parts(width, 1 << levels - level + (size & 15))
            * _parts(height, 1 << levels - level + (size >> 4))
            for level, size in enumerate(sizes)
        )
        packets = max(packets, tiles * components * layers * precincts)
        each = _parts(width, 4 << wide) * _parts(height, 4 << high)
        blocks = max(blocks, tiles * components * each)
    refuse_more(packets, max(_PACKETS, pixels // _PIXELS_PER_PACKET), "packets", name)
    refuse_more(blocks, max(_BLOCKS, pixels // _PIXELS_PER_BLOCK), "code-blocks", name)


def _codestream(data: bytes) -> bytes:
    """What the first box of a JP2 file holds that holds a codestream, or all that has no boxes."""
    if data.startswith(b"\xff\x4f"):
        return data
    where = 0
    while where + 16 <= len(data):
        length, kind, long_length = struct.unpack_from(">I4sQ", data, where)
        header = 8
        if length == 1:
            length, header = long_length, 16
        if kind == b"jp2c":
            return data[where + header :]
        where += max(length, header)
    return b""


def _parts(whole: int, part: int) -> int:
    """How many parts cover the whole; a part of nothing is the decoder's to refuse."""
    return -(-whole // max(part, 1))
