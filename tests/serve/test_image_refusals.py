from __future__ import annotations

import contextlib
import os
import re
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pictures import PHOTO, encoded, one_line, png
from PIL import Image, ImageFile

from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.images import DEFAULT_MAX_PIXELS, ImageLimits, check_pixels, read_image


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
    array = np.asarray(PHOTO)
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


def test_a_jpeg_2000_cut_in_the_middle_is_refused() -> None:
    data = encoded(PHOTO, "JPEG2000")
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image(data[: len(data) // 2])
