"""Small files that would make a decoder take any amount of time or memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import PHOTO, encoded, exif, one_line, png
from PIL import Image

from clsspec_serve.errors import ImageError, ImageTooLarge
from clsspec_serve.images import Encoded, read_image

BYTE, SHORT, LONG = 1, 3, 4
DATA = 16
"""Where the data of `tiff` begins."""


def image_size(data: bytes) -> tuple[int, int]:
    with Encoded(data) as encoded:
        return encoded.size


both = pytest.mark.parametrize("read", [image_size, read_image])
Read = Callable[[bytes], object]
Tag = tuple[int, int, int, int]


def refused(read: Read, data: bytes, message: str) -> ImageError:
    with pytest.raises(ImageError, match=message) as info:
        read(data)
    assert one_line(info).startswith("image bytes: has ")
    return info.value


def tiff(tags: list[Tag], data: bytes, order: str = "<", big: bool = False) -> bytes:
    """`data` and a directory of (tag, type, number of values, value or where they are)."""
    mark, where = (b"II" if order == "<" else b"MM"), DATA + len(data)
    if big:
        head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, where)
    else:
        head = mark + struct.pack(f"{order}HI8x", 42, where)
    directory = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    for tag, kind, count, value in sorted(tags):
        inline = "H2x" if kind == SHORT and count == 1 else "I"
        directory += struct.pack(f"{order}HH{'Q' if big else 'I'}", tag, kind, count)
        directory += struct.pack(f"{order}{inline}{'4x' if big else ''}", value)
    return head + data + directory + bytes(8)


def grey(width: int, length: int, compression: int = 8) -> list[Tag]:
    return [
        (256, LONG, 1, width),
        (257, LONG, 1, length),
        (258, SHORT, 1, 8),
        (259, SHORT, 1, compression),
        (262, SHORT, 1, 1),
        (277, SHORT, 1, 1),
    ]


def strip(length: int, rows: int = 16) -> list[Tag]:
    return [(273, LONG, 1, DATA), (278, LONG, 1, rows), (279, LONG, 1, length)]


def tiled(picture: tuple[int, int], tile: tuple[int, int], **kind: Any) -> bytes:
    data = zlib.compress(b"\x07" * (tile[0] * tile[1]))
    place = [(322, LONG, 1, tile[0]), (323, LONG, 1, tile[1])]
    place += [(324, LONG, 1, DATA), (325, LONG, 1, len(data))]
    return tiff(grey(*picture) + place, data, **kind)


def striped(rows: int = 16, extra: list[Tag] | None = None, behind: bytes = b"") -> bytes:
    data = zlib.compress(b"\x07" * 256)
    return tiff(grey(16, 16) + strip(len(data), rows) + (extra or []), data + behind)


@both
@pytest.mark.parametrize(
    "kind", [{"order": "<"}, {"order": ">"}, {"big": True}], ids=["little", "big", "BigTIFF"]
)
def test_a_tiff_tile_far_larger_than_the_picture_is_refused(
    read: Read, kind: dict[str, Any]
) -> None:
    data = tiled((16, 16), (2048, 1024), **kind)
    message = "tiles of 2048x1024 = 2097152 pixels; accepted are 1048576"
    assert isinstance(refused(read, data, message), ImageTooLarge)


@pytest.mark.parametrize(
    ("picture", "tile"),
    [((16, 16), (1024, 1024)), ((1024, 512), (2048, 1024))],
    ids=["a million pixels", "four times the picture"],
)
def test_the_largest_tiles_that_are_accepted_are_read(
    picture: tuple[int, int], tile: tuple[int, int]
) -> None:
    pixels = read_image(tiled(picture, tile))
    np.testing.assert_array_equal(pixels, np.full((picture[1], picture[0], 3), 7))


@both
def test_a_tile_size_that_is_there_twice_does_not_hide_the_larger(read: Read) -> None:
    data = tiled((16, 16), (2048, 1024))
    first = struct.pack("<HHII", 322, LONG, 1, 2048)
    again = data.replace(first, struct.pack("<HHII", 322, LONG, 1, 16) + first)
    # One entry more.
    at = struct.unpack_from("<I", data, 4)[0]
    again = again[:at] + struct.pack("<H", 11) + again[at + 2 :]
    refused(read, again, "tiles of 2048x1024")


@pytest.mark.parametrize("rows", [16, 65536, 2**32 - 1])
def test_strips_longer_than_the_picture_end_with_it(rows: int) -> None:
    np.testing.assert_array_equal(read_image(striped(rows)), np.full((16, 16, 3), 7))


@both
def test_tags_that_share_their_bytes_are_refused(read: Read) -> None:
    # libtiff keeps a copy for each.
    shared = [(tag, BYTE, 600_000, DATA) for tag in (40_000, 40_001)]
    data = striped(extra=shared, behind=bytes(700_000))
    refused(read, data, "1200000 bytes of tags; accepted are 1048576")
    assert image_size(striped(extra=shared[:1], behind=bytes(700_000))) == (16, 16)


@both
def test_a_tiff_of_half_a_million_strips_is_refused(read: Read) -> None:
    # Uncompressed: Pillow makes an object of each before the size is known.
    count = (1 << 19) + 1
    tags = [(273, SHORT, count, DATA), (278, LONG, 1, 1)]
    data = tiff(grey(16, 16, compression=1) + tags, bytes(2 * count))
    refused(read, data, "524296 numbers in tags; accepted are 524288")


@both
def test_strips_that_share_their_bytes_are_refused(read: Read) -> None:
    shared = zlib.compress(b"\x07" * 16).ljust(300_000, b"\0")
    tables = struct.pack("<16I16I", *[DATA] * 16, *[len(shared)] * 16)
    place = [(273, LONG, 16, DATA + len(shared)), (278, LONG, 1, 1)]
    place += [(279, LONG, 16, DATA + len(shared) + 64)]
    data = tiff(grey(16, 16) + place, shared + tables)
    refused(read, data, "4800000 bytes in strips and tiles; accepted are 4194304")


def test_a_length_that_no_strip_can_have_is_read_as_before() -> None:
    data = tiff(grey(16, 16, compression=1) + strip(2**32 - 1), b"\x07" * 256)
    np.testing.assert_array_equal(read_image(data), np.full((16, 16, 3), 7))


@both
def test_a_tiff_of_more_tags_than_libtiff_reads_is_refused(read: Read) -> None:
    extra = [(40_000 + tag, BYTE, 1, 0) for tag in range(4096)]
    refused(read, striped(extra=extra), "4105 tags; accepted are 4096")


@both
def test_a_tiff_that_pillow_and_libtiff_read_differently_is_refused(read: Read) -> None:
    with pytest.raises(ImageError, match="is a big-endian BigTIFF; accepted are other TIFFs"):
        read(tiled((16, 16), (16, 16), order=">", big=True))


def progressive(scans: int) -> bytes:
    """A grey JPEG; what Pillow's six scans lack are copies of the second, which is empty."""
    data = encoded(Image.new("L", (64, 48), 128), "JPEG", progressive=True)
    _, second, third, *_ = (at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda")
    return data[:third] + data[second:third] * (scans - 6) + data[third:]


@both
def test_a_jpeg_of_more_than_100_scans_is_refused(read: Read) -> None:
    refused(read, progressive(101), "101 scans; accepted are 100")


def test_a_jpeg_file_of_more_than_100_scans_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scans.jpg").write_bytes(progressive(101))
    with pytest.raises(ImageError, match=r"scans\.jpg: has 101 scans"):
        read_image(tmp_path / "scans.jpg")


def test_a_jpeg_of_100_scans_is_read() -> None:
    np.testing.assert_array_equal(read_image(progressive(100)), np.full((48, 64, 3), 128))


def test_a_progressive_photograph_is_read() -> None:
    data = encoded(PHOTO, "JPEG", progressive=True, quality=95)
    assert data.count(b"\xff\xda") == 10
    assert read_image(data).shape == (120, 180, 3)


def test_scans_in_metadata_and_behind_the_end_do_not_count() -> None:
    data = encoded(PHOTO, "JPEG")
    scans = b"\xff\xda\0\2" * 1000
    segment = b"\xff\xe4" + struct.pack(">H", 2 + len(scans)) + scans
    moving = data[:2] + segment + data[2:] + scans
    np.testing.assert_array_equal(read_image(moving), read_image(data))


def test_a_jpeg_of_more_than_100_exif_segments_is_refused() -> None:
    data = encoded(PHOTO, "JPEG")
    tags = exif(1)
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(tags)) + tags
    for read in (image_size, read_image):
        refused(read, data[:2] + segment * 101 + data[2:], "101 EXIF segments; accepted are 100")
        # Pillow reads on behind an end that comes before the first scan.
        refused(read, data[:2] + b"\xff\xd9" + segment * 101 + data[2:], "101 EXIF segments")
    assert read_image(data[:2] + segment * 100 + data[2:]).shape == (120, 180, 3)


@both
def test_a_jpeg_of_more_than_10000_segments_is_refused(read: Read) -> None:
    data = encoded(PHOTO, "JPEG")
    comments = b"\xff\xfe\0\2" * 10_000
    refused(read, data[:2] + comments + data[2:], "10001 segments; accepted are 10000")


@both
@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_png_of_more_than_512_compressed_texts_is_refused(read: Read, kind: bytes) -> None:
    def texts(number: int) -> bytes:
        content = kind + b"\0\0" + zlib.compress(bytes(1 << 10))
        checked = struct.pack(">I", len(content) - 4) + content
        return (checked + struct.pack(">I", zlib.crc32(content))) * number

    rows = b"\0" + b"\7" * 6
    message = "513 compressed texts and profiles; accepted are 512"
    refused(read, png(2, 1, 8, 2, rows, texts(513)), message)
    assert image_size(png(2, 1, 8, 2, rows, texts(512))) == (1, 2)


@both
def test_a_plain_text_ppm_of_more_than_100000_comments_is_refused(read: Read) -> None:
    def plain(comments: int) -> bytes:
        return b"P3\n2 1\n255\n" + b"#\n" * comments + b"7 7 7 7 7 7\n"

    refused(read, plain(100_001), "100001 comments; accepted are 100000")
    np.testing.assert_array_equal(read_image(plain(9)), np.full((1, 2, 3), 7))
    # In any other PPM it is a value like the rest.
    assert read_image(b"P6\n200 200\n255\n" + b"#" * 120_000).shape == (200, 200, 3)


def jpeg_2000(
    size: tuple[int, int],
    tile: tuple[int, int],
    components: int = 1,
    layers: int = 1,
    precincts: bytes = b"",
    block: int = 6,
    component: bytes = b"",
) -> bytes:
    """A grey codestream of one resolution, whose tile holds an empty packet.

    `block` is the exponent of the sides of code-blocks; `component` a segment that follows.
    """
    sizes = struct.pack(">HIIIIIIIIH", 0, *size, 0, 0, *tile, 0, 0, components)
    style = bytes([bool(precincts), 0]) + struct.pack(">H", layers)
    style += bytes([0, 0, block - 2, block - 2, 0, 1]) + precincts

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">HH", marker, 2 + len(content)) + content

    return (
        b"\xff\x4f"
        + segment(0xFF51, sizes + bytes([7, 1, 1]) * components)
        + segment(0xFF52, style)
        + component
        + segment(0xFF5C, b"\x40\x40")
        + segment(0xFF90, struct.pack(">HIBB", 0, 15, 0, 1))
        + b"\xff\x93\x80\xff\xd9"
    )


def jp2(size: tuple[int, int], codestream: bytes) -> bytes:
    """The same in boxes, one of which keeps Pillow from looking into it."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", 8 + len(content)) + kind + content

    header = struct.pack(">IIHBBBB", size[1], size[0], 1, 7, 7, 0, 0)
    colour = b"\1\0\0" + struct.pack(">I", 17)
    return (
        box(b"jP  ", b"\r\n\x87\n")
        + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
        + box(b"jp2h", box(b"ihdr", header) + box(b"colr", colour))
        + box(b"free", b"")
        + box(b"jp2c", codestream)
    )


@both
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (jpeg_2000((33, 33), (1, 1)), "1089 tiles; accepted are 1024"),
        (jp2((33, 33), jpeg_2000((33, 33), (1, 1))), "1089 tiles; accepted are 1024"),
        (jp2((9, 9), jpeg_2000((9, 9), (9, 9), components=5)), "5 components; accepted are 4"),
        (
            jpeg_2000((182, 182), (182, 182), precincts=b"\0"),
            "33124 packets; accepted are 32768",
        ),
        (jpeg_2000((9, 9), (9, 9), layers=32_769), "32769 packets; accepted are 32768"),
        (
            jpeg_2000((1040, 1040), (1040, 1040), block=2),
            "67600 code-blocks; accepted are 65536",
        ),
        (
            jpeg_2000((182, 182), (182, 182), component=b"\xff\x53\0\x0a\0\1\0\4\4\0\1\0"),
            "33124 packets; accepted are 32768",
        ),
        (
            jpeg_2000((9, 9), (9, 9), component=b"\xff\x53\0\x09\0\0\0\4\4\0\1" * 1024),
            "1025 coding styles; accepted are 1024",
        ),
    ],
    ids=["tiles", "JP2", "components", "precincts", "layers", "blocks", "COC", "styles"],
)
def test_a_jpeg_2000_header_that_asks_for_large_tables_is_refused(
    read: Read, data: bytes, message: str
) -> None:
    assert len(data) < 15_000
    refused(read, data, message)


def test_the_same_headers_with_less_in_them_are_read() -> None:
    data = jpeg_2000((180, 180), (60, 60), precincts=b"\x44", block=4, layers=3)
    for same in (data, jp2((180, 180), data)):
        assert read_image(same).shape == (180, 180, 3)


@pytest.mark.parametrize("no_jp2", [False, True])
def test_tiles_layers_precincts_and_code_blocks_of_other_sizes_are_read(no_jp2: bool) -> None:
    data = encoded(
        PHOTO,
        "JPEG2000",
        no_jp2=no_jp2,
        tile_size=(32, 32),
        quality_layers=[8, 4, 0],
        precinct_size=(64, 64),
        codeblock_size=(16, 16),
        num_resolutions=4,
    )
    np.testing.assert_array_equal(read_image(data), np.asarray(PHOTO))
