import contextlib
import io
import os
import re
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.images import DEFAULT_MAX_PIXELS, ImageLimits, check_pixels, read_image

PHOTO = Image.fromarray(skimage.data.chelsea()[:120, :180].copy())


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = (
        chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def over(rgb: list[int], alpha: int, background: tuple[int, int, int]) -> list[int]:
    """Alpha compositing in exact arithmetic, rounded to nearest; 255 is odd, so nothing ties."""
    return [
        round((c * alpha + b * (255 - alpha)) / 255) for c, b in zip(rgb, background, strict=True)
    ]


def one_line(excinfo: pytest.ExceptionInfo[ImageError]) -> str:
    message = str(excinfo.value)
    assert "\n" not in message
    return message


# What opaque pictures become


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


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format: str) -> None:
    data = encoded(PHOTO, format, exif=exif(orientation))
    opened = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    pixels = read_image(data)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.shape == ((120, 180, 3) if orientation < 5 else (180, 120, 3))


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


# Transparency

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


# Deep pixels

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


# Refusals


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"lost\.png: cannot be opened: No such file") as info:
        read_image(tmp_path / "lost.png")
    one_line(info)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a directory"):
        read_image(tmp_path)


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe")


def test_a_path_that_cannot_exist_is_refused_on_one_line() -> None:
    with pytest.raises(ImageError, match="cannot be opened") as info:
        read_image("line\nbreak\x00.png")
    one_line(info)


@pytest.mark.parametrize("data", [b"hello, world", b"P", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xff"])
def test_other_files_are_not_images(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"other\.jpg: is not an image; accepted are JPEG, PNG"):
        read_image(path)


def test_empty_input_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty\.png: is empty"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(ImageError, match="image bytes: is empty"):
        read_image(b"")


@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"])
def test_a_truncated_picture_is_refused_whatever_pillows_global_flag_says(
    format: str, kept: float, tolerant: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    # A header that trails the pixels, as Pillow writes it in TIFF, is cut just the same.
    data = encoded(PHOTO, format)
    with pytest.raises(ImageError, match="truncated") as info:
        read_image(data[: int(len(data) * kept)])
    assert one_line(info).startswith("image bytes: ")


@pytest.mark.parametrize(("format", "shortest"), [("JPEG", 1), ("PNG", 12)])
def test_a_picture_cut_before_its_end_marker_is_refused(format: str, shortest: int) -> None:
    data = encoded(PHOTO, format)
    for missing in range(shortest, shortest + 30):
        with pytest.raises(ImageError, match="truncated"):
            read_image(data[:-missing])


def test_a_png_cut_inside_of_its_empty_last_chunk_still_has_every_pixel() -> None:
    data = encoded(PHOTO, "PNG")
    for missing in range(1, 12):
        np.testing.assert_array_equal(read_image(data[:-missing]), np.asarray(PHOTO))


def test_a_picture_with_bytes_behind_its_end_is_read() -> None:
    for format in ("JPEG", "PNG"):
        data = encoded(PHOTO, format)
        np.testing.assert_array_equal(read_image(data + b"\x00" * 40), read_image(data))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"]), st.data())
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_hostile_bytes_give_pixels_or_an_image_error(format: str, data: st.DataObject) -> None:
    good = encoded(PHOTO.resize((24, 16)), format)
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        where = data.draw(st.integers(0, len(good) - 1))
        damaged[where] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(1, len(good)))
    # Anything else that is raised fails the test.
    with contextlib.suppress(ImageError):
        check_pixels(read_image(bytes(damaged[:cut]), ImageLimits(max_pixels=1_000_000)))


@pytest.mark.parametrize(
    "error",
    [
        *(OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError, OverflowError),
        *(IndexError, TypeError, MemoryError, KeyError, RecursionError, AttributeError),
    ],
)
@pytest.mark.parametrize("stage", ["_open", "load"])
def test_every_error_of_a_plugin_becomes_an_image_error(
    stage: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object) -> None:
        raise error("first\nsecond")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile." + stage, fail)
    with pytest.raises(ImageError, match=r"first.*second") as info:
        read_image(encoded(PHOTO, "PNG"))
    assert info.value.__cause__ is not None
    one_line(info)


def test_a_large_png_is_refused_from_its_header() -> None:
    # 900 million pixels, of which the file holds none.
    data = png(30_000, 30_000, 8, 2, b"")
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="30000x30000 = 900000000 pixels") as info:
            read_image(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert f"accepted are {DEFAULT_MAX_PIXELS}" in one_line(info)


def test_a_size_between_pillows_warning_and_its_error_is_refused_without_a_warning() -> None:
    # Warnings are errors here, and an error from Pillow would have another message.
    with pytest.raises(ImageError, match="10000x10000 = 100000000 pixels"):
        read_image(png(10_000, 10_000, 8, 2, b""))


def test_a_limit_above_pillows_own_is_the_one_that_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(PHOTO, "PNG")
    np.testing.assert_array_equal(read_image(data), np.asarray(PHOTO))
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_is_the_last_size_that_is_read() -> None:
    data = encoded(PHOTO, "PNG")
    assert read_image(data, ImageLimits(max_pixels=120 * 180)).shape == (120, 180, 3)
    for source in (data, PHOTO, np.asarray(PHOTO)):
        with pytest.raises(ImageError, match="accepted are 21599"):
            read_image(source, ImageLimits(max_pixels=120 * 180 - 1))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused(array: NDArray[Any]) -> None:
    with pytest.raises(ImageError, match=re.escape(f"array: is {array.shape} {array.dtype}")):
        read_image(array)


def test_an_rgb_array_is_taken_as_it_is() -> None:
    array = skimage.data.chelsea()
    assert read_image(array) is array


def test_other_objects_are_refused_by_type() -> None:
    with pytest.raises(ImageError, match="int is no image"):
        read_image(7)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    "limits",
    [{"max_pixels": 0}, {"background": (0, 0, 256)}, {"background": (0, 0)}],
)
def test_limits_that_mean_nothing_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="accepted are"):
        ImageLimits(**limits)


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
