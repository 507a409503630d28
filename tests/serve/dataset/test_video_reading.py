"""Frames in any order: what comes is the same, and little is decoded twice or kept."""

from __future__ import annotations

import gc
import os
from fractions import Fraction
from pathlib import Path

import pytest
from video_clips import (
    FRAMES,
    H264,
    KINDS,
    all_pixels,
    clip,
    counted,
    numbered,
    orders,
    outcomes,
    packets,
    picture,
    reader,
    source,
)

from clsspec_serve.dataset.videos.opening import Video, VideoError


def write(folder: Path, name: str, frames: int = FRAMES) -> Path:
    """A clip of a kind, of frames that differ."""
    rate = 25 if name.endswith(("mpg", "ts")) else 10
    pixels = [picture(index, 64, 96) for index in range(frames)]
    return clip(folder / name, pixels, rate=rate, **KINDS[name])


@pytest.mark.parametrize("name", KINDS)
def test_a_frame_s_pixels_do_not_depend_on_those_that_were_read_before(
    tmp_path: Path, name: str
) -> None:
    file = write(tmp_path, name)
    expected = outcomes(reader(file), file)
    assert len(set(expected)) == FRAMES
    assert all(isinstance(each, bytes) for each in expected)
    for words, order in orders(FRAMES).items():
        assert outcomes(reader(file), file, order) == expected, words
    alone = [outcomes(reader(file), file, [index])[0] for index in range(FRAMES)]
    assert alone == expected


@pytest.mark.parametrize("name", KINDS)
def test_one_after_the_other_each_frame_is_decoded_once(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, name, 100)
    with counted() as work:
        outcomes(reader(file), file)
    # Listing opens it, and of broadcasts decodes it.
    assert work.decoded <= 110
    assert work.sought <= 3
    assert work.opened <= 3


@pytest.mark.parametrize("name", ["B-frames.mp4", "B-frames.mkv", "every-one-a-key-frame.mkv"])
def test_frames_far_from_each_other_are_decoded_from_the_key_frames_near_them(
    tmp_path: Path, name: str
) -> None:
    file = write(tmp_path, name, 300)
    with counted() as work:
        assert len(all_pixels(file, fps=0.2)) == 6
    assert work.decoded < 40


def test_a_few_frames_of_a_second_are_decoded_on_the_way(tmp_path: Path) -> None:
    file = write(tmp_path, "B-frames.mp4", 100)
    with counted() as work:
        assert len(all_pixels(file, fps=3)) == 30
    assert work.decoded <= 100
    assert work.sought == 1


def test_a_frame_of_a_transport_stream_is_not_decoded_from_the_beginning(tmp_path: Path) -> None:
    file = write(tmp_path, "B-frames.ts", 300)
    items, own = list(source(file).items()), reader(file)
    with counted() as work:
        for index in (280, 150):
            own.read(items[index])
    assert work.decoded < 200


def test_a_file_that_cannot_be_sought_in_is_decoded_from_its_beginning(tmp_path: Path) -> None:
    file = write(tmp_path, "B-frames.mkv")
    expected = outcomes(reader(file), file)

    def refuse(video: Video, time: int) -> None:
        raise VideoError("Operation not permitted")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Video, "seek", refuse)
        for words, order in orders(FRAMES).items():
            assert outcomes(reader(file), file, order) == expected, words


def test_a_jump_that_goes_too_far_is_tried_again_from_before(tmp_path: Path) -> None:
    """And what is decoded on the way to a key frame, without what it is made from, is not taken."""
    file = write(tmp_path, "open-groups.mp4")
    expected, seek = outcomes(reader(file), file), Video.seek
    unit = 1 / (10 * packets(file)[0].time_base)

    def beyond(video: Video, time: int) -> None:
        seek(video, time + int(4 * unit))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Video, "seek", beyond)
        for words, order in orders(FRAMES).items():
            assert outcomes(reader(file), file, order) == expected, words


def test_a_reader_that_is_not_needed_any_more_leaves_no_file_open(
    tmp_path: Path, own_garbage: None
) -> None:
    file = numbered(tmp_path / "a.mkv", 3)
    item, *_ = source(file).items()
    own = reader(file)
    own.read(item)
    folder = Path("/proc/self/fd")
    held = [each for each in folder.iterdir() if os.path.realpath(each) == str(file)]
    assert len(held) == 1
    del own
    gc.collect()
    assert not [each for each in folder.iterdir() if os.path.realpath(each) == str(file)]


def test_frames_are_not_kept(tmp_path: Path) -> None:
    """What a decoder hands out is freed at once, not when garbage is next collected."""
    frames = [picture(index, 720, 1280) for index in range(3)] * 40
    file = clip(tmp_path / "a.mp4", frames, rate=Fraction(25), **(H264 | {"preset": "ultrafast"}))
    items, own = list(source(file).items()), reader(file)
    gc.collect()
    gc.disable()
    try:
        for item in items[:30]:
            own.read(item)
        before = _resident()
        for item in items[30:]:
            own.read(item)
        grown = _resident() - before
    finally:
        gc.enable()
    assert grown < 30 << 20  # a fifth of these frames


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
