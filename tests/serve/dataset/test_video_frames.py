"""What a frame of a video looks like: exact where nothing is lost, upright, and in its colours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from video_clips import H264, all_pixels, clip, numbered, picture, reader, source

from clsspec_serve.dataset.sources.source import Unreadable
from clsspec_serve.dataset.videos.pixels import Converter, _display, upright
from clsspec_serve.errors import ImageTooLarge

COLOURS = ((200, 40, 60), (30, 180, 90), (70, 60, 220), (128, 128, 128), (250, 240, 20))
BT709, BT601, BT2020, UNKNOWN = 1, 5, 9, 2
LIMITED, FULL = 1, 2


def flat(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A frame of one colour."""
    return np.full((32, 48, 3), colour, np.uint8)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.mkv", "ffv1", "bgr0"), ("a.mp4", "libx264rgb", "rgb24"), ("a.mov", "png", "rgb24")],
)
def test_frames_that_lose_nothing_are_exact(
    tmp_path: Path, name: str, codec: str, pixel_format: str
) -> None:
    options = {"qp": "0"} if codec == "libx264rgb" else {}
    file = numbered(tmp_path / name, 12, codec=codec, pixel_format=pixel_format, **options)
    found = all_pixels(file)
    assert len(found) == 12
    for index, pixels in enumerate(found):
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        np.testing.assert_array_equal(pixels, picture(index))


@pytest.mark.parametrize("size", [(27, 43), (28, 43), (27, 42), (2, 2)])
def test_sizes_need_not_be_even(tmp_path: Path, size: tuple[int, int]) -> None:
    file = clip(tmp_path / "a.mkv", [picture(3, *size)])
    (pixels,) = all_pixels(file)
    np.testing.assert_array_equal(pixels, picture(3, *size))


@pytest.mark.parametrize(
    "colours", [(BT709, LIMITED), (BT709, FULL), (BT601, FULL), (BT2020, FULL)]
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_the_colour_space_and_range_that_a_video_states_are_those_of_its_frames(
    tmp_path: Path, name: str, colours: tuple[int, int]
) -> None:
    frames = [flat(colour) for colour in COLOURS]
    options = H264 | {"qp": "1", "pixel_format": "yuv444p"}
    file = clip(tmp_path / name, frames, colours=colours, **options)
    for pixels, expected in zip(all_pixels(file), frames, strict=True):
        np.testing.assert_allclose(pixels.astype(int), expected, atol=2)


def test_what_states_no_colour_space_is_bt601_of_limited_range(tmp_path: Path) -> None:
    frame = VideoFrame(32, 32, "yuv444p")
    for plane, value in zip(frame.planes, (120, 90, 200), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    assert (frame.colorspace, frame.color_range) == (UNKNOWN, 0)
    luma, blue, red = (120 - 16) * 255 / 219, (90 - 128) * 255 / 224, (200 - 128) * 255 / 224
    expected = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    np.testing.assert_allclose(Converter().pixels(frame)[5, 5], expected, atol=1)


def test_ten_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    frames = [flat(colour) for colour in COLOURS]
    options = H264 | {"qp": "1", "pixel_format": "yuv444p10le"}
    file = clip(tmp_path / "a.mp4", frames, colours=(BT709, LIMITED), **options)
    for pixels, expected in zip(all_pixels(file), frames, strict=True):
        np.testing.assert_allclose(pixels.astype(int), expected, atol=2)


def test_pixels_do_not_depend_on_the_processor() -> None:
    script = Path(__file__).parents[2] / "conversion_here.py"
    found = {
        subprocess.run(
            [sys.executable, script, each], capture_output=True, text=True, check=True
        ).stdout
        for each in ("all", "plain")
    }
    assert len(found) == 1


def test_a_colour_space_that_is_not_known_is_a_failure(tmp_path: Path) -> None:
    file = clip(tmp_path / "a.mkv", [flat(COLOURS[0])], colours=(14, LIMITED), **H264)  # ICtCp
    (item,) = source(file).items()
    with pytest.raises(Unreadable, match="its colours cannot be converted: ") as caught:
        reader(file).read(item)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("turned", "expected"),
    [
        ((90,), np.rot90),
        ((180,), lambda pixels: pixels[::-1, ::-1]),
        ((-90,), lambda pixels: np.rot90(pixels, -1)),
        ((0, True), lambda pixels: pixels[:, ::-1]),
        ((0, False, True), lambda pixels: pixels[::-1]),
    ],
    ids=["left", "around", "right", "mirrored", "upside down"],
)
def test_frames_are_upright_as_a_player_shows_them(
    tmp_path: Path, turned: tuple[object, ...], expected: object
) -> None:
    assert callable(expected)
    options = {"codec": "libx264rgb", "pixel_format": "rgb24", "qp": "0"}
    file = numbered(tmp_path / "a.mp4", 3, turned=turned, **options)
    for index, pixels in enumerate(all_pixels(file)):
        np.testing.assert_array_equal(pixels, expected(picture(index)))
        assert pixels.flags.c_contiguous


def test_a_phone_s_portrait_is_upright(tmp_path: Path) -> None:
    """Its matrix is written into the track's header here, as a phone does, by no library."""
    options = {"codec": "libx264rgb", "pixel_format": "rgb24", "qp": "0"}
    file = numbered(tmp_path / "a.mp4", 2, **options)
    content = bytearray(file.read_bytes())
    one = 1 << 16
    upright = [one, 0, 0, 0, one, 0, 0, 0, 1 << 30]
    # A quarter to the right: x becomes y, and y what is left of the width.
    turned = [0, one, 0, -one, 0, 0, 28 * one, 0, 1 << 30]
    before = b"".join(each.to_bytes(4, "big", signed=True) for each in upright)
    start = content.index(before, content.index(b"tkhd"))
    content[start : start + 36] = b"".join(each.to_bytes(4, "big", signed=True) for each in turned)
    file.write_bytes(content)
    for index, pixels in enumerate(all_pixels(file)):
        np.testing.assert_array_equal(pixels, np.rot90(picture(index), -1))


def test_a_frame_with_data_that_pyav_does_not_know_is_turned_all_the_same() -> None:
    class Frame(SimpleNamespace):
        @property
        def side_data(self) -> object:
            raise ValueError("99 is not a valid Type")

    pixels = picture(0)
    for rotation, turns in ((0, 0), (90, 1), (-180, 2), (-90, 3)):
        matrix = _display(Frame(rotation=rotation))  # type: ignore[arg-type]  # a stand-in
        np.testing.assert_array_equal(upright(pixels, *matrix), np.rot90(pixels, turns))


def test_frames_of_more_pixels_than_are_accepted_are_not_decoded(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mkv", 2)
    first, second = source(file).items()
    own = reader(file, 28 * 42 - 1)
    for item in (first, second):
        with pytest.raises(ImageTooLarge, match=r"^has 42x28 = 1176 pixels; accepted are 1175$"):
            own.read(item)
    assert reader(file, 28 * 42).read(first).shape == (28, 42, 3)


def test_frames_that_grow_under_way_are_not_decoded_either(tmp_path: Path) -> None:
    """A stream may say another size at any key frame than its file's header does."""
    small = numbered(tmp_path / "small.ts", 5, codec="mpeg2video", pixel_format="yuv420p")
    frames = [picture(index, 280, 420) for index in range(5)]
    options = {"codec": "mpeg2video", "pixel_format": "yuv420p"}
    large = clip(tmp_path / "large.ts", frames, times=range(7, 12), **options)
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    own, failures, shapes = reader(both, 28 * 42), 0, set()
    for item in source(both).items():
        try:
            shapes.add(own.read(item).shape)
        except Unreadable:
            failures += 1
    assert shapes == {(28, 42, 3)}
    assert failures
