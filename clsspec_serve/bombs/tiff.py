"""TIFF: tags, strips and tiles that share bytes, and tiles far larger than the picture."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np

from clsspec_serve.bombs.counting import refuse_more
from clsspec_serve.errors import ImageError, ImageTooLarge

_ENTRIES = 4096
"""Of a TIFF's directory, at most, as in libtiff."""
_NUMBERS = 1 << 19
"""In all tags, at most: Pillow makes an object of each, and another of each strip or tile."""
_OVERLAP = 4
"""Strips and tiles may share bytes: together they are this many times the file's, at most."""
_SMALL_FILE = 1 << 20
"""What is shared in a file that is shorter does no harm."""
_TILE = 4
"""A tile holds this many times the picture's pixels, at most, or `_SMALL_TILE`."""
_SMALL_TILE = 1 << 20
# By a tag's type: bytes of a value; which are integers; which Pillow keeps as bytes.
_BYTES = np.array([0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8, 0])
_INTEGERS = (1, 3, 4, 6, 8, 9, 13, 16, 17, 18)
_STRINGS = (1, 2, 7)
_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323
_STRIP_BYTES, _TILE_BYTES = 279, 325


def refuse_tiff(stream: BinaryIO, name: str) -> None:
    """Raise ImageError, or ImageTooLarge, for such a file, by its first directory.

    Pillow reads tags up to the file's size, but libtiff any number of the same bytes; a tile is
    decoded whole, however little of it lies in the picture.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(16)
    order, big = ("<" if head.startswith(b"II") else ">"), 43 in head[2:4]
    if big and order == ">":
        # Pillow takes it for another kind of TIFF than libtiff does.
        raise ImageError(f"{name}: is a big-endian BigTIFF; accepted are other TIFFs")
    long = np.dtype(f"{order}u8" if big else f"{order}u4")
    entry = np.dtype([("tag", f"{order}u2"), ("type", f"{order}u2"), ("n", long), ("at", long)])
    start = int(np.frombuffer(head, long, 1, long.itemsize)[0])
    if start >= size:
        return
    stream.seek(start)
    count = int(np.frombuffer(stream.read(8 if big else 2), f"{order}u{8 if big else 2}")[0])
    start = stream.tell()
    count = min(count, (size - start) // entry.itemsize)
    refuse_more(count, _ENTRIES, "tags", name)
    entries = np.frombuffer(stream.read(count * entry.itemsize), entry)

    # As floats, which do not overflow. What ends beyond the file is not read.
    sizes = _BYTES[np.minimum(entries["type"], 19)] * entries["n"].astype(float)
    inline = sizes <= long.itemsize
    there = inline | (entries["at"].astype(float) + sizes <= size)
    there &= sizes > 0
    numbers = entries["n"][there & ~np.isin(entries["type"], _STRINGS)]
    refuse_more(int(numbers.sum()), _NUMBERS, "numbers in tags", name)
    shared = max(size, _SMALL_FILE)
    refuse_more(int(sizes[there & ~inline].sum()), shared, "bytes of tags", name)

    values: dict[int, list[int]] = {}
    for i in np.flatnonzero(there & np.isin(entries["type"], _INTEGERS)):
        tag, kind = int(entries["tag"][i]), int(entries["type"][i])
        if tag in (_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH, _STRIP_BYTES, _TILE_BYTES):
            within = start + int(i) * entry.itemsize + 4 + long.itemsize
            stream.seek(within if inline[i] else int(entries["at"][i]))
            read = np.frombuffer(stream.read(int(sizes[i])), f"{order}u{_BYTES[kind]}")
            # A tag may be there twice, and then who knows which of them counts.
            values.setdefault(tag, []).extend(read.tolist())
    held = sum(min(n, size) for tag in (_STRIP_BYTES, _TILE_BYTES) for n in values.get(tag, ()))
    refuse_more(held, _OVERLAP * shared, "bytes in strips and tiles", name)
    if _TILE_WIDTH not in values or _TILE_LENGTH not in values:
        return
    width, length = max(values[_TILE_WIDTH]), max(values[_TILE_LENGTH])
    pixels = min(values.get(_WIDTH, [0])) * min(values.get(_LENGTH, [0]))
    accepted = max(_TILE * pixels, _SMALL_TILE)
    if width * length > accepted:
        raise ImageTooLarge(
            f"{name}: has tiles of {width}x{length} = {width * length} pixels; "
            f"accepted are {accepted}"
        )
