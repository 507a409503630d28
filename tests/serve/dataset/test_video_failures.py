"""Damaged frames, files that were changed, and what cannot be read: failures, in any order."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from bounded import within
from video_clips import (
    FRAMES,
    H264,
    KINDS,
    clip,
    counted,
    damage,
    numbered,
    orders,
    outcomes,
    packets,
    picture,
    reader,
    source,
)

from clsspec_serve.dataset.sources.source import Changed, Unreadable
from clsspec_serve.dataset.trees.local import LocalTree


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
