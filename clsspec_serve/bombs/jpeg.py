"""JPEG: scans and segments without end."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clsspec_serve.bombs.counting import refuse_more

_SCANS = 100
"""Of a JPEG, at most: libjpeg goes over the whole picture for each. Encoders write about ten."""
_EXIF_SEGMENTS = 100
"""Of a JPEG, at most: Pillow copies all that it has of EXIF for each. Cameras write one."""
_SEGMENTS = 10_000
"""Of a JPEG, at most: Pillow takes half a microsecond for each byte of a short one."""
_EXIF = b"Exif\0\0"
# A marker that a length follows, or the end of the picture.
_JPEG_SEGMENT = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe]")


def refuse_jpeg(data: bytes, name: str) -> None:
    """Raise ImageError for a JPEG with more scans, segments or EXIF than any encoder writes."""
    # The bytes of a marker alone are also met in metadata, and in the video that follows some EOI.
    scans = exifs = 0
    for number, (code, content) in enumerate(_jpeg_segments(data), 1):
        refuse_more(number, _SEGMENTS, "segments", name)
        scans += code == 0xDA
        exifs += code == 0xE1 and data.startswith(_EXIF, content)
    refuse_more(scans, _SCANS, "scans", name)
    refuse_more(exifs, _EXIF_SEGMENTS, "EXIF segments", name)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """(marker, where its content begins) of each segment that Pillow or libjpeg comes upon."""
    where, scanned = 2, False
    while found := _JPEG_SEGMENT.search(data, where):
        code, where = data[found.end() - 1], found.end()
        end = code == 0xD9
        # libjpeg stops here; Pillow does not before the first scan.
        if end and scanned:
            return
        scanned = scanned or code == 0xDA
        yield code, where + 2
        where += 0 if end else max(2, int.from_bytes(data[where : where + 2], "big"))
