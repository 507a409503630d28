"""Which frames of a video are listed, by which names, and what is said of files that are none."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from dataset_sources import as_folder
from video_clips import H264, all_pixels, clip, counted, names, numbered, picture, source

from clsspec_serve.dataset.sources.find import find_source
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.errors import DatasetError, UsageError

FILM = Fraction(30000, 1001)


def test_every_frame_is_a_picture_named_by_its_seconds_after_the_first(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mkv", 5, rate=8)
    assert names(file) == ["#t=0.000", "#t=0.125", "#t=0.250", "#t=0.375", "#t=0.500"]
    items = list(source(file).items())
    assert [item.position for item in items] == [0, 125, 250, 375, 500]  # Matroska's milliseconds
    assert {item.file for item in items} == {"a.mkv"}


def test_listing_decodes_nothing(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mp4", 30, **H264)
    with counted() as work:
        assert len(names(file)) == 30
    assert work.decoded == 0


def test_seconds_count_from_the_first_frame_wherever_the_file_begins(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mkv", 3, times=[25, 26, 28])
    assert names(file) == ["#t=0.000", "#t=0.100", "#t=0.300"]


def test_seconds_are_rounded_to_thousandths(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mp4", 4, rate=FILM, **H264)
    assert names(file) == ["#t=0.000", "#t=0.033", "#t=0.067", "#t=0.100"]


def test_frames_are_listed_in_the_order_in_which_they_are_shown(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mp4", 30, **H264)
    assert names(file) == [f"#t={index / 10:.3f}" for index in range(30)]


@pytest.mark.parametrize("fps", [0.1, 0.7, 1, 2, 7.5, 23.976, 29.97, 30])
def test_of_every_moment_the_frame_is_taken_that_is_shown_then(tmp_path: Path, fps: float) -> None:
    file = numbered(tmp_path / "a.mp4", 100, rate=FILM, **H264)
    rate, expected, moment = Fraction(str(fps)), [], Fraction(0)
    while moment < 100 / FILM:
        shown = int(moment * FILM)
        expected.append(f"#t={round(shown / FILM * 1000) / 1000:.3f}")
        moment += 1 / rate
    assert names(file, fps) == list(dict.fromkeys(expected))


def test_a_moment_at_which_a_frame_begins_is_that_frame_s(tmp_path: Path) -> None:
    """In binary fractions 3000 times 0.017 is more than 51."""
    file = numbered(tmp_path / "a.mkv", 310, rate=100)
    assert names(file, 100) == names(file)
    assert names(file, 50) == names(file)[::2]
    assert "#t=3.000" in names(file, 17)


@pytest.mark.parametrize("fps", [10.5, 60, 1000])
def test_a_faster_rate_than_the_video_s_takes_each_frame_once(tmp_path: Path, fps: float) -> None:
    file = numbered(tmp_path / "a.mkv", 20)
    assert names(file, fps) == names(file)


def test_frames_of_any_duration_are_taken_while_they_are_shown(tmp_path: Path) -> None:
    times = [0, 1, 2, 30, 31, 58, 90]
    file = numbered(tmp_path / "a.mkv", 7, rate=20, times=times)
    chosen = names(file, 1)  # at 0, 20, 40, 60, 80 of the units
    assert chosen == ["#t=0.000", "#t=0.100", "#t=1.550", "#t=2.900"]
    found = all_pixels(file, 1)
    for index, pixels in zip((0, 2, 4, 5), found, strict=True):
        np.testing.assert_array_equal(pixels, picture(index))


def test_what_an_edit_has_cut_off_is_not_shown(tmp_path: Path) -> None:
    """A MP4 may begin with frames that are decoded, as others are made from them, and not shown."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    times = [*range(-5, 15)]
    file = numbered(tmp_path / "a.mp4", 20, times=times, container=options, **H264)
    assert names(file) == [f"#t={index / 10:.3f}" for index in range(15)]
    assert all(isinstance(each, np.ndarray) for each in all_pixels(file))


def test_fields_of_broadcasts_are_not_taken_for_frames(tmp_path: Path) -> None:
    """In a transport stream a packet may be half a frame, so that decoding has to tell."""
    options = H264 | {"x264-params": "tff=1"}
    file = clip(tmp_path / "a.ts", [picture(index, 64, 64) for index in range(20)], **options)
    with counted() as work:
        assert len(names(file)) == 20
    assert work.decoded == 20


def test_the_first_video_stream_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "a.mkv"
    with av.open(str(file), "w") as output:
        sound = output.add_stream("pcm_s16le", rate=8000)
        streams = [output.add_stream("ffv1", rate=10) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 28, 42, "bgr0"
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        noise.rate = 8000
        output.mux(sound.encode(noise))
        for index in range(3):
            for first, stream in zip((0, 100), streams, strict=True):
                frame = av.VideoFrame.from_ndarray(picture(first + index), format="rgb24")
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    found = all_pixels(file)
    assert len(found) == 3
    for index, pixels in enumerate(found):
        np.testing.assert_array_equal(pixels, picture(index))


def _sound(file: Path) -> None:
    with av.open(str(file), "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.rate = 8000
        output.mux(stream.encode(frame))


def _sound_with_a_cover(file: Path) -> None:
    with av.open(str(file), "w", format="mp4") as output:
        sound, cover = output.add_stream("aac", rate=8000), output.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 28, 42, "rgb24"
        cover.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.rate = 8000
        output.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        output.mux(cover.encode(None))
        output.mux(sound.encode(frame))
        output.mux(sound.encode(None))


INVALID = "Invalid data found when processing input"


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda file: file.write_bytes(b""), INVALID),
        (lambda file: file.write_bytes(b"no video at all" * 500), INVALID),
        (lambda file: file.write_bytes(bytes(9000)), INVALID),
        (_sound, "it has no video stream"),
        (_sound_with_a_cover, "it has no video stream"),
        (lambda file: file.symlink_to("nothing"), None),
    ],
    ids=["empty", "text", "zeros", "sound", "sound with a cover", "link"],
)
def test_what_is_no_video_is_a_row_that_says_so(
    tmp_path: Path,
    write: Callable[[Path], object],
    problem: str | None,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(tmp_path / "none.mp4")
    numbered(tmp_path / "other.mkv", 1)
    with caplog.at_level(logging.DEBUG):
        none, other = find_source(str(tmp_path)).items()
    words = "cannot be read: No such file or directory"
    assert none.id == "none.mp4"
    assert none.problem == (words if problem is None else f"is no whole video: {problem}")
    assert other.problem is None
    assert capfd.readouterr() == ("", "")
    assert not [each for each in caplog.records if "libav" in each.name]


def test_files_that_name_others_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg would open what a list says, also relative to where the process is."""
    numbered(tmp_path / "elsewhere" / "a.mkv", 3)
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = as_folder(tmp_path / "set", {"a.mp4": b"ffconcat version 1.0\nfile 'a.mkv'\n"})
    (item,) = find_source(str(folder)).items()
    assert (item.id, item.problem) == ("a.mp4", "is no whole video: Invalid argument")


@pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "mp4"])
def test_a_video_that_ends_too_soon_gives_what_it_has_and_says_so(
    tmp_path: Path, suffix: str
) -> None:
    options = H264
    if suffix == "webm":
        options = {"codec": "libvpx-vp9", "pixel_format": "yuv420p", "g": "10"}
    elif suffix == "avi":
        options = {"codec": "mpeg4", "pixel_format": "yuv420p", "g": "10"}
    container = {"movflags": "faststart"} if suffix == "mp4" else {}
    frames = [picture(index, 120, 160) for index in range(40)]
    file = clip(tmp_path / f"a.{suffix}", frames, container=container, **options)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    *found, last = source(file).items()
    assert 10 < len(found) < 40
    assert not any(item.problem for item in found)
    assert last.id == file.name
    assert last.problem is not None
    assert last.problem.startswith(f"is no whole video: it ends after {file.stat().st_size} of ")


def test_a_video_whose_index_is_cut_off_is_a_row_that_says_so(tmp_path: Path) -> None:
    file = numbered(tmp_path / "a.mp4", 20, **H264)
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"moov") - 4])
    (item,) = source(file).items()
    assert item.problem == f"is no whole video: {INVALID}"


def test_folders_patterns_and_files_name_videos(tmp_path: Path) -> None:
    for name in ("b.MKV", "a/x.mkv", "a/y.mkv"):
        numbered(tmp_path / name, 2)
    as_folder(tmp_path, {"notes.txt": b"", "b.srt": b""})
    found = [item.id for item in find_source(str(tmp_path)).items()]
    files = ("a/x.mkv", "a/y.mkv", "b.MKV")
    assert found == [f"{file}#t=0.{tenth}00" for file in files for tenth in (0, 1)]
    for text, expected in ((f"{tmp_path}/a/y.mkv", "y.mkv"), (f"{tmp_path}/*/y.*", "a/y.mkv")):
        items = list(find_source(text).items())
        assert [item.file for item in items] == [expected] * 2
        pixels = open_reader(find_source(text).place).read(items[1])
        np.testing.assert_array_equal(pixels, picture(1))


def test_what_is_no_video_has_no_rate(tmp_path: Path) -> None:
    as_folder(tmp_path, {"a.png": b"", "list.txt": b"a.png\n"})
    with pytest.raises(UsageError, match=f"^--fps is for videos; {tmp_path} has pictures$"):
        find_source(str(tmp_path), fps=2)
    with pytest.raises(UsageError, match=r"--fps is for videos; .*list\.txt has paths"):
        find_source(f"{tmp_path}/list.txt", fps=2)
    numbered(tmp_path / "a.mkv", 1)
    with pytest.raises(UsageError, match=r"--column is for Parquet tables; .* has videos"):
        find_source(f"{tmp_path}/a.mkv", "image")
    with pytest.raises(DatasetError, match="has 1 pictures, 1 videos; name one kind"):
        find_source(str(tmp_path))


def test_without_its_extra_a_video_is_refused_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbered(tmp_path / "a.mkv", 1)
    place = find_source(str(tmp_path)).place
    monkeypatch.setattr("clsspec_serve.dataset.videos.extra.find_spec", lambda name: None)
    words = 'videos need av; install it with: pip install "clsspec-serve[video]"'
    with pytest.raises(UsageError) as caught:
        find_source(str(tmp_path))
    assert str(caught.value) == words
    with pytest.raises(UsageError) as caught:
        open_reader(place)
    assert str(caught.value) == words
