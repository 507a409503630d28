"""Frames in any order: what comes is the same, what is damaged too, and little is decoded twice."""

from __future__ import annotations

import gc
import io
import os
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from bounded import within
from video_clips import (
    H264,
    all_pixels,
    clip,
    counted,
    damage,
    numbered,
    outcomes,
    packets,
    picture,
    reader,
    source,
)

from clsspec_serve.dataset.sources.source import Changed, Unreadable
from clsspec_serve.dataset.trees.local import LocalTree
from clsspec_serve.dataset.videos.opening import Video, VideoError

FRAMES = 40
KINDS = {
    "B-frames.mp4": H264,
    "B-frames.mkv": H264,
    "B-frames.ts": H264,
    # Frames before a key frame are made from it, too.
    "open-groups.mp4": H264 | {"x264-params": "open-gop=1"},
    "open-groups.ts": H264 | {"x264-params": "open-gop=1"},
    "open-groups-hevc.mp4": {
        "codec": "libx265",
        "pixel_format": "yuv420p",
        "x265-params": "keyint=10:open-gop=1:log-level=none",
    },
    # No picture is a key frame, after the first one.
    "refreshed.ts": H264 | {"bf": "0", "intra-refresh": "1"},
    # What has no times.
    "a.avi": {"codec": "mpeg4", "pixel_format": "yuv420p", "g": "10", "bf": "2"},
    "h264.avi": H264,
    "a.mpg": {"codec": "mpeg2video", "pixel_format": "yuv420p", "g": "10", "bf": "2"},
    "a.webm": {"codec": "libvpx-vp9", "pixel_format": "yuv420p", "g": "10"},
    "every-one-a-key-frame.mkv": {},
}


def write(folder: Path, name: str, frames: int = FRAMES) -> Path:
    """A clip of a kind, of frames that differ."""
    rate = 25 if name.endswith(("mpg", "ts")) else 10
    pixels = [picture(index, 64, 96) for index in range(frames)]
    return clip(folder / name, pixels, rate=rate, **KINDS[name])


def orders(count: int) -> dict[str, list[int]]:
    """Ways to ask for frames."""
    shuffled = list(range(count))
    random.Random(0).shuffle(shuffled)
    every = [*range(0, count, 7), *(each for each in range(count) if each % 7)]
    return {"backwards": [*reversed(range(count))], "shuffled": shuffled, "by steps": every}


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


def _order(file: Path) -> list[int]:
    """Numbers of the frames in the order in which they are decoded."""
    times = [each.pts or 0 for each in packets(file)]
    return [sorted(times).index(time) for time in times]


def _amid(file: Path) -> int:
    """A packet in the middle of a group."""
    return next(at for at in range(14, 20) if not packets(file)[at].is_keyframe)


def _made_from(file: Path) -> int:
    """A packet from whose frame others are made that are shown before."""
    order = _order(file)
    return next(at for at in range(12, 20) if order[at] > at + 1)


def _before_a_key_frame(file: Path) -> int:
    """A packet whose frame is shown before a key frame that is decoded before it."""
    found, order = packets(file), _order(file)
    return next(
        at for at in range(12, 32) if found[at - 1].is_keyframe and order[at] < order[at - 1]
    )


@pytest.mark.parametrize(
    ("name", "where"),
    [
        *((name, _amid) for name in ("B-frames.mp4", "B-frames.ts", "a.avi")),
        *((name, _made_from) for name in ("B-frames.mp4", "B-frames.mkv", "B-frames.ts")),
        *((name, _before_a_key_frame) for name in ("open-groups.mp4", "a.avi")),
    ],
)
def test_damage_is_the_failure_of_the_same_frames_in_any_order(
    tmp_path: Path, name: str, where: Callable[[Path], int]
) -> None:
    frames = [picture(index, 120, 160) for index in range(FRAMES)]
    options = KINDS[name] | {"bf": "5", "b_strategy": "0", "sc_threshold": "0"}
    file = clip(tmp_path / name, frames, **(KINDS["a.avi"] if name == "a.avi" else options))
    whole = outcomes(reader(file), file)
    damage(file, where(file))
    expected = outcomes(reader(file), file)
    failed = [index for index, each in enumerate(expected) if isinstance(each, str)]
    assert failed == [*range(failed[0], failed[-1] + 1)]
    assert 1 <= len(failed) <= 10
    assert {expected[index] for index in failed} == {"is damaged, or made from a frame that is"}
    others = [index for index in range(FRAMES) if index not in failed]
    assert [expected[index] for index in others] == [whole[index] for index in others]
    for words, order in orders(FRAMES).items():
        assert outcomes(reader(file), file, order) == expected, words
    alone = [outcomes(reader(file), file, [index])[0] for index in range(FRAMES)]
    assert alone == expected


def test_a_damaged_group_is_not_decoded_for_each_of_its_frames(tmp_path: Path) -> None:
    frames = [picture(index, 120, 160) for index in range(100)]
    file = clip(tmp_path / "a.mp4", frames, **(H264 | {"g": "50"}))
    damage(file, 60)
    with counted() as work:
        found = outcomes(reader(file), file)
    assert sum(isinstance(each, str) for each in found) > 20
    assert work.decoded < 200
    assert work.sought + work.opened < 10
    assert work.opened > 2  # for the list, at first, and after the damage


def test_times_that_begin_anew_and_damage_come_to_an_end(tmp_path: Path) -> None:
    """Two recordings in one file: its key frames are not in the order of their times."""
    frames = [picture(index, 120, 160) for index in range(25)]
    file = clip(tmp_path / "a.ts", frames, **KINDS["B-frames.ts"])
    content = file.read_bytes()
    for at in (1, 12, 22):
        file.write_bytes(content)
        damage(file, at)
        file.write_bytes(file.read_bytes() * 2)
        found = within(30, lambda: outcomes(reader(file), file))
        assert len(found) == 25
        assert any(isinstance(each, str) for each in found)


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


def test_frames_that_never_come_are_failures(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mkv", 5)
    items = list(source(file).items())
    own = reader(file)
    for position in (50, -1):
        with pytest.raises(Unreadable, match=r"^has no such frame$"):
            own.read(items[0]._replace(position=position))
    with pytest.raises(Unreadable, match=r"^is damaged, or made from a frame that is$"):
        own.read(items[0]._replace(position=1000))
    np.testing.assert_array_equal(own.read(items[2]), picture(2))


def _touch(file: Path) -> None:
    status = os.stat(file)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def test_a_video_that_was_changed_after_the_listing_is_not_read(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mkv", 5)
    item, *_ = source(file).items()
    _touch(file)
    own = reader(file)
    with pytest.raises(Changed, match="is in a video that was changed after it had been listed"):
        own.read(item)
    file.write_bytes(b"no video any more")
    with pytest.raises(Changed):
        own.read(item)
    file.unlink()
    with pytest.raises(Unreadable, match="cannot be read: No such file or directory"):
        own.read(item)


def test_a_video_that_is_changed_under_way_is_not_read_on(tmp_path: Path) -> None:
    frames = [
        np.random.default_rng(index).integers(0, 256, (200, 300, 3), np.uint8)
        for index in range(12)
    ]  # more than is read at once
    file = clip(tmp_path / "a.mkv", frames)
    items, own = list(source(file).items()), reader(file)
    np.testing.assert_array_equal(own.read(items[0]), frames[0])
    _touch(file)
    with pytest.raises(Changed):
        _ = [own.read(item) for item in items[1:]]
    with pytest.raises(Changed):
        own.read(items[0])


class _Failing(io.BytesIO):
    """A file of which a part cannot be read."""

    def __init__(self, content: bytes, good: int) -> None:
        super().__init__(content)
        self._good = good

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self._good:
            raise OSError(5, "Input/output error")
        return super().read(size)


@pytest.mark.parametrize("name", ["a.webm", "B-frames.mp4", "B-frames.ts", "a.avi"])
def test_what_cannot_be_read_is_not_taken_for_the_end(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg asks again, or goes on as if the file were over."""
    frames = [
        np.random.default_rng(index).integers(0, 256, (240, 320, 3), np.uint8)
        for index in range(30)
    ]
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    file = clip(tmp_path / name, frames, container=options, **KINDS[name])
    content, items = file.read_bytes(), list(source(file).items())
    assert len(content) > 2 << 18  # more than is read at once

    def opened(tree: LocalTree, path: str) -> BinaryIO:
        return _Failing(content, len(content) // 2)

    monkeypatch.setattr(LocalTree, "open", opened)
    words = "cannot be read: Input/output error"
    own = reader(file)
    with pytest.raises(Unreadable, match=f"^{words}$"):
        own.read(items[-1])
    *_, last = source(file).items()
    assert last.problem == words
    monkeypatch.undo()
    assert own.read(items[-1]).shape == (240, 320, 3)


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
