"""Where a file ends by its own account, for kinds whose demuxers end in silence before that."""

from __future__ import annotations

from typing import BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_UNKNOWN = (0, 0xFFFFFFFF)
"""In place of an AVI's size, by programs that were ended while they wrote it."""
_LONGEST = 1 << 20
"""Bytes of an EBML header, which has a few numbers."""


def stated_end(stream: BinaryIO) -> int | None:
    """The byte after the last one of a Matroska, WebM or AVI file; None where nothing says so.

    Of an AVI that has more than one part it is the end of the first one.
    """
    stream.seek(0)
    head = stream.read(12)
    if head[:4] == b"RIFF":
        size = int.from_bytes(head[4:8], "little")
        return 8 + size if size not in _UNKNOWN and head[8:] == b"AVI " else None
    if head[:4] != _EBML:
        return None
    header = _size(head[4:])
    if header is None or header[1] > _LONGEST:
        return None
    start = 4 + sum(header)
    stream.seek(start)
    head = stream.read(12)
    segment = _size(head[4:]) if head[:4] == _SEGMENT else None
    return None if segment is None else start + 4 + sum(segment)


def _size(data: bytes) -> tuple[int, int] | None:
    """How long an EBML number is, and the number; None where it says that nothing is known.

    RFC 8794, section 4.
    """
    if not data or not data[0]:
        return None
    length = 9 - data[0].bit_length()
    value = int.from_bytes(data[:length], "big") & ((1 << 7 * length) - 1)
    if len(data) < length or value == (1 << 7 * length) - 1:
        return None
    return length, value
