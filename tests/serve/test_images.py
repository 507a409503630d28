from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import PHOTO, encoded, exif
from PIL import Image, ImageOps

from clsspec_serve.errors import ImageError
from clsspec_serve.images import read_image


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "PPM"])
def test_an_rgb_file_is_what_pillows_convert_gives(tmp_path: Path, format: str) -> None:
    path = tmp_path / "photo"
    PHOTO.save(path, format)
    expected = np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB"))
    for source in (path, str(path), path.read_bytes()):
        pixels = read_image(source)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_a_compressed_tiff_is_what_pillows_convert_gives(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "photo.tif"
    PHOTO.save(path, compression=compression)
    expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    np.testing.assert_array_equal(read_image(path.read_bytes()), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV", "LAB", "CMYK", "RGBX"])
def test_other_opaque_modes_are_what_pillows_convert_gives(mode: str) -> None:
    if mode == "LAB":
        image = Image.frombytes("LAB", PHOTO.size, PHOTO.tobytes())
    else:
        image = PHOTO.convert(mode)
    np.testing.assert_array_equal(read_image(image), np.asarray(image.convert("RGB")))


def test_an_inverted_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    data = encoded(red, "JPEG", quality=95)
    assert b"Adobe" in data
    difference = read_image(data).astype(int) - np.asarray([255, 0, 0])
    assert np.abs(difference).max() <= 3


def test_a_plain_text_ppm_without_a_last_newline_is_read_whole() -> None:
    pixels = read_image(b"P3 2 1 255 1 2 3 4 5 6")
    np.testing.assert_array_equal(pixels, [[[1, 2, 3], [4, 5, 6]]])


def test_one_pixel_is_an_image() -> None:
    pixels = read_image(encoded(Image.new("RGB", (1, 1), (3, 4, 5)), "PNG"))
    np.testing.assert_array_equal(pixels, [[[3, 4, 5]]])


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(read_image(data), np.asarray(frames[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    data = encoded(PHOTO, format, exif=exif(orientation))
    opened = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    pixels = read_image(data)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.shape == ((120, 180, 3) if orientation < 5 else (180, 120, 3))


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match=r"^PIL image: has 0x5 pixels; accepted is at least one$"):
        read_image(Image.new("RGB", (0, 5)))


def test_orientation_six_turns_a_picture_clockwise() -> None:
    lying = np.zeros((2, 3, 3), np.uint8)
    lying[0, 0] = 255
    data = encoded(Image.fromarray(lying), "PNG", exif=exif(6))
    upright = read_image(data)
    assert upright.shape == (3, 2, 3)
    assert upright[0, 1].tolist() == [255, 255, 255]
    assert upright.sum() == 3 * 255


@pytest.mark.parametrize("mode", ["I;16", "RGBA"])
def test_orientation_is_applied_to_every_mode(mode: str) -> None:
    image = PHOTO.convert("L").convert("I").convert(mode) if mode == "I;16" else PHOTO.convert(mode)
    upright = read_image(encoded(image, "PNG"))
    turned = read_image(encoded(image, "PNG", exif=exif(8)))
    np.testing.assert_array_equal(turned, np.rot90(upright))


def test_a_pil_image_that_carries_exif_is_turned_and_itself_left_alone() -> None:
    image = Image.open(io.BytesIO(encoded(PHOTO, "JPEG", exif=exif(6))))
    assert read_image(image).shape == (180, 120, 3)
    assert image.size == (180, 120)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "broken",
    [
        b"Exif\x00\x00nonsense",
        b"Exif\x00\x00II*\x00\x08",
        b"Exif\x00\x00MM\x00*\xff\xff\xff\xff",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x02\x00\x00\x00x\x00\x00\x00",
        exif(9),
        exif(0),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_broken_exif_is_ignored(broken: bytes, format: str) -> None:
    plain = read_image(encoded(PHOTO, format))
    np.testing.assert_array_equal(read_image(encoded(PHOTO, format, exif=broken)), plain)


def test_threads_read_the_same_pixels() -> None:
    data = encoded(PHOTO, "JPEG", exif=exif(6))
    expected = read_image(data)
    results: list[bool] = []

    def work() -> None:
        results.extend(np.array_equal(read_image(data), expected) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_a_path_is_closed_after_reading(tmp_path: Path) -> None:
    # An open file would raise a ResourceWarning, which is an error here.
    path = tmp_path / "photo.tif"
    PHOTO.save(path, save_all=True, append_images=[PHOTO])
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    kept = read_image(path)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert kept.shape == (120, 180, 3)
    assert after == before


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("boxed", [True, False])
def test_jpeg_2000_is_what_pillows_convert_gives(tmp_path: Path, mode: str, boxed: bool) -> None:
    path = tmp_path / ("photo.jp2" if boxed else "photo.j2k")
    PHOTO.convert(mode).save(path, no_jp2=not boxed)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))
