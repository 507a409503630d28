"""PNG and plain PPM: texts that unpack to far more than their bytes, or are copied for ever."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from clsspec_serve.bombs.counting import refuse_more

_PNG_TEXTS = 512
"""Compressed texts and profiles of a PNG, at most: a kilobyte each unpacks to a megabyte."""
_PNG_PACKED = (b"iCCP", b"iTXt", b"zTXt")
_PLAIN_COMMENTS = 100_000
"""Of a plain-text PPM, at most: Pillow copies up to a megabyte for each."""


def refuse_png(data: bytes, name: str) -> None:
    """Raise ImageError for more compressed texts and profiles than accepted."""
    texts = sum(chunk in _PNG_PACKED for chunk in _png_chunks(data))
    refuse_more(texts, _PNG_TEXTS, "compressed texts and profiles", name)


def refuse_plain_ppm(data: bytes, name: str) -> None:
    """Raise ImageError for more comments than accepted."""
    refuse_more(data.count(b"#"), _PLAIN_COMMENTS, "comments", name)


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """The type of each chunk."""
    where = 8
    while where + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, where)
        yield kind
        where += 12 + length
