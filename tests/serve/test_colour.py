from __future__ import annotations

import re
import struct
import zlib

import numpy as np
import pytest
from pictures import encoded, one_line, over, png
from PIL import Image

from clsspec_serve.colour import parse_colour
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.images import ImageLimits, read_image


@pytest.mark.parametrize(
    ("text", "colour"),
    [("ffffff", (255, 255, 255)), ("#0080FF", (0, 128, 255)), ("010203", (1, 2, 3))],
)
def test_a_colour_is_hexadecimal(text: str, colour: tuple[int, int, int]) -> None:
    assert parse_colour(text) == colour


@pytest.mark.parametrize("text", ["", "fff", "white", "ffff", "ffffffff", "gggggg", "##ffffff"])
def test_a_colour_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="accepted is RRGGBB, such as ffffff") as info:
        parse_colour(text)
    assert repr(text) in str(info.value)


BACKGROUNDS = [(255, 255, 255), (0, 0, 0), (10, 120, 250)]


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_alpha_is_composited_over_the_background_and_rounded(
    background: tuple[int, int, int],
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    values[0, :, 3] = 0
    values[1, :, 3] = 255
    pixels = read_image(encoded(Image.fromarray(values), "PNG"), ImageLimits(background=background))
    expected = [[over(p[:3], p[3], background) for p in row] for row in values.tolist()]
    np.testing.assert_array_equal(pixels, expected)


def test_the_background_is_white_unless_stated() -> None:
    clear = Image.new("RGBA", (2, 2), (9, 9, 9, 0))
    assert read_image(clear).min() == 255


@pytest.mark.parametrize("mode", ["LA", "La"])
def test_grey_with_alpha_is_composited(mode: str) -> None:
    image = Image.new("LA", (3, 2), (100, 51)).convert(mode)
    pixels = read_image(image, ImageLimits(background=(0, 50, 200)))
    assert pixels[0, 0].tolist() == over([100] * 3, 51, (0, 50, 200))


def test_premultiplied_alpha_is_not_multiplied_twice() -> None:
    pixels = read_image(Image.new("RGBA", (1, 1), (100, 200, 50, 51)).convert("RGBa"))
    assert pixels[0, 0].tolist() == over([100, 200, 50], 51, (255, 255, 255))


def test_a_palettes_alpha_is_composited() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([0, 1, 2])
    pixels = read_image(encoded(palette, "PNG", transparency=bytes([0, 128, 255])))
    assert pixels[0].tolist() == [
        [255, 255, 255],
        over([40, 50, 60], 128, (255, 255, 255)),
        [70, 80, 90],
    ]


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palettes_transparent_entry_shows_the_background(format: str) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    data = encoded(palette, format, transparency=1)
    pixels = read_image(data, ImageLimits(background=(1, 2, 3)))
    assert pixels[0].tolist() == [[10, 20, 30], [1, 2, 3]]


def test_a_transparent_colour_shows_the_background() -> None:
    rgb = Image.fromarray(np.asarray([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    pixels = read_image(encoded(rgb, "PNG", transparency=(1, 2, 3)))
    assert pixels[0].tolist() == [[255, 255, 255], [4, 5, 6]]


def test_a_transparent_deep_grey_shows_the_background() -> None:
    rows = b"\x00" + struct.pack(">HH", 1000, 65535)
    key = b"tRNS" + struct.pack(">H", 1000)
    chunk = struct.pack(">I", 2) + key + struct.pack(">I", zlib.crc32(key))
    pixels = read_image(png(2, 1, 16, 0, rows, chunk), ImageLimits(background=(1, 2, 3)))
    assert pixels[0].tolist() == [[1, 2, 3], [255, 255, 255]]


DEEP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
DEEP_AS_GREY = np.round(DEEP / 257).astype(np.uint8)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_rounded(format: str) -> None:
    pixels = read_image(encoded(Image.fromarray(DEEP), format))
    np.testing.assert_array_equal(pixels, np.repeat(DEEP_AS_GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_every_byte_order_of_sixteen_bit_grey_is_understood(mode: str) -> None:
    order = {"I;16B": ">u2", "I": "<i4"}.get(mode, "<u2")
    image = Image.frombytes(mode, (256, 256), DEEP.astype(order).tobytes())
    np.testing.assert_array_equal(read_image(image)[..., 0], DEEP_AS_GREY)


@pytest.mark.parametrize(("mode", "value"), [("I", -1), ("I", 65536), ("F", 0.5)])
def test_pixels_without_a_known_range_are_refused(mode: str, value: float) -> None:
    data = encoded(Image.new(mode, (4, 4), value), "TIFF")
    with pytest.raises(ImageError, match=re.escape("accepted are 8 bits per channel and")) as info:
        read_image(data)
    assert f"mode {mode} from {value} to {value}" in one_line(info)
