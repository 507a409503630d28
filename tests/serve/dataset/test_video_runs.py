"""Runs over videos: the same bytes however they are cut into shards' work, and no frame twice."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from threading import get_ident
from weakref import finalize

import av
import numpy as np
import pytest
from command_line import tree
from dataset_sources import computed, rows
from video_clips import H264, clip, counted, numbered, picture

from clsspec_serve import load
from clsspec_serve.dataset import preparing
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.sources.videos import VideoReader
from clsspec_serve.dataset.worker import Resources
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError
from clsspec_serve.preparation import prepare
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches"), "policy": "squash"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Eleven shards of four frames; key frames are anywhere in them."""
    return numbered(tmp_path / "set" / "a.mp4", 43, **H264)


def test_rows_are_what_the_model_gives_for_the_frames(bundle: Path, tmp_path: Path) -> None:
    file = numbered(tmp_path / "set" / "a.mkv", 9)
    computed(bundle, file, tmp_path / "out", OPTIONS, fps=5)
    found, model = rows(tmp_path / "out"), load(bundle, threads=1)
    assert [row["id"] for row in found] == [f"a.mkv#t=0.{tenth}00" for tenth in (0, 2, 4, 6, 8)]
    for row, index in zip(found, range(0, 9, 2), strict=True):
        expected = model(picture(index), **OPTIONS).cls
        np.testing.assert_array_equal(np.float32(row["cls"]), expected)


def test_any_shard_alone_has_the_bytes_that_it_has_among_the_others(
    bundle: Path, file: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    computed(bundle, file, whole, OPTIONS)
    expected = tree(whole)
    for lost in ((5,), (0, 3, 4, 10), (9,)):
        shutil.copytree(whole, out)
        for shard in lost:
            for each in (f"shards/{shard:06}.json", f"rows/{shard:06}.parquet"):
                (out / each).unlink()
            (out / "patches.zarr" / "c" / f"{shard}" / "0" / "0" / "0").unlink()
        assert computed(bundle, file, out, OPTIONS).computed == sum(
            3 if shard == 10 else 4 for shard in lost
        )
        assert tree(out) == expected
        shutil.rmtree(out)


def test_a_run_that_was_broken_off_goes_on_and_ends_the_same(
    bundle: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clsspec_serve.predictor import Model

    computed(bundle, file, tmp_path / "whole", OPTIONS)
    forward, passes = Model.forward, 0

    def some(*arguments: object) -> object:
        nonlocal passes
        passes += 1
        if passes == 8:
            raise KeyboardInterrupt
        return forward(*arguments)  # type: ignore[arg-type]  # whatever they are

    with monkeypatch.context() as patch:
        patch.setattr(Model, "forward", some)
        with pytest.raises(KeyboardInterrupt):
            computed(bundle, file, tmp_path / "out", OPTIONS)
    assert 0 < len([*(tmp_path / "out" / "shards").iterdir()]) < 11
    computed(bundle, file, tmp_path / "out", OPTIONS)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_processes_beside_each_other_give_the_same_bytes(
    bundle: Path, file: Path, tmp_path: Path
) -> None:
    computed(bundle, file, tmp_path / "here", OPTIONS)
    runner = Processes([Resources(1, Threads(4, 1))] * 2)
    computed(bundle, file, tmp_path / "there", OPTIONS, runner=runner)
    assert tree(tmp_path / "there") == tree(tmp_path / "here")


def test_a_run_decodes_each_frame_once_however_many_threads_may_read(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = numbered(tmp_path / "set" / "a.mp4", 100, **H264)
    runner = Here(load(bundle, threads=1), Threads(8, 4))
    read, threads = VideoReader.read, set()

    def reading(reader: VideoReader, item: Item) -> object:
        threads.add(get_ident())
        return read(reader, item)

    monkeypatch.setattr(VideoReader, "read", reading)
    with counted() as work:
        computed(bundle, file, tmp_path / "out", OPTIONS, runner=runner, shard_size=50)
    assert len(threads) == 1
    assert work.decoded == 100
    assert work.sought == 1


def test_few_frames_are_there_at_a_time_however_slow_the_rest_is(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = numbered(tmp_path / "set" / "a.mp4", 100, **H264)
    read, there, most = VideoReader.read, set(), 0

    def reading(reader: VideoReader, item: Item) -> object:
        nonlocal most
        pixels = read(reader, item).copy()
        there.add(id(pixels))
        finalize(pixels, there.discard, id(pixels))
        most = max(most, len(there))
        return pixels

    def slowly(*arguments: object) -> object:
        time.sleep(0.01)
        return prepare(*arguments)  # type: ignore[arg-type]  # whatever they are

    monkeypatch.setattr(VideoReader, "read", reading)
    monkeypatch.setattr(preparing, "prepare", slowly)
    runner = Here(load(bundle, threads=1), Threads(8, 1))
    computed(bundle, file, tmp_path / "out", runner=runner, shard_size=100, batch_size=64)
    assert 2 <= most <= 8


def test_what_is_wrong_with_a_video_is_in_the_rows(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    clip(folder / "big.mkv", [picture(0, 60, 60)])
    whole = numbered(folder / "cut.mkv", 5)
    whole.write_bytes(whole.read_bytes()[:-200])
    (folder / "none.mp4").write_bytes(b"no video")
    limits = {"max_pixels": 28 * 42}
    computed(bundle, folder, tmp_path / "out", {**OPTIONS, "limits": limits})  # type: ignore[typeddict-item]  # as JSON has it
    found = rows(tmp_path / "out")
    kinds = [(row["id"].partition("#")[0], row["kind"]) for row in found]
    assert kinds[0] == ("big.mkv", "too large")
    assert kinds[1] == ("cut.mkv", None)
    assert kinds[-2:] == [("cut.mkv", "unreadable"), ("none.mp4", "unreadable")]
    assert found[0]["error"] == "has 60x60 = 3600 pixels; accepted are 1176"
    assert found[-2]["error"].startswith("is no whole video: it ends after ")
    assert all(row["error"] is None or row["error"].isprintable() for row in found)


def test_another_ffmpeg_is_refused_for_videos_and_for_nothing_else(
    bundle: Path, file: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed(bundle, file, tmp_path / "videos", OPTIONS)
    computed(bundle, source.parent / "set" / "000.png", tmp_path / "pictures", OPTIONS)
    versions = av.library_versions | {"libavcodec": (99, 0, 1)}
    monkeypatch.setattr(av, "library_versions", versions)
    with pytest.raises(DatasetError, match=r"begun otherwise: decoders was .* libavcodec 99\.0\.1"):
        computed(bundle, file, tmp_path / "videos", OPTIONS)
    assert computed(bundle, source / "000.png", tmp_path / "pictures", OPTIONS).computed == 0


def test_another_rate_is_refused(bundle: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    computed(bundle, file, out, OPTIONS, fps=2)
    assert computed(bundle, file, out, OPTIONS, fps=2.0).computed == 0
    for fps, words in ((0.5, "0.5"), (None, "every frame")):
        with pytest.raises(DatasetError, match=rf"begun otherwise: fps was 2\.0 and is {words}$"):
            computed(bundle, file, out, OPTIONS, fps=fps)


def test_a_video_that_was_added_is_appended(bundle: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    computed(bundle, file.parent, out, OPTIONS, fps=1)
    numbered(file.parent / "b.mkv", 5)
    with pytest.raises(DatasetError, match=r"1 new \(b\.mkv#t=0\.000\)"):
        computed(bundle, file.parent, out, OPTIONS, fps=1)
    assert computed(bundle, file.parent, out, OPTIONS, fps=1, append=True).computed == 1


def test_frames_that_stay_are_duplicates(bundle: Path, tmp_path: Path) -> None:
    frames = [picture(index) for index in (0, 0, 1, 0, 2)]
    turned = np.zeros((28, 42, 3), np.uint8), np.zeros((42, 28, 3), np.uint8)
    clip(tmp_path / "set" / "a.mkv", [*frames, turned[0]])
    clip(tmp_path / "set" / "b.mkv", [turned[1]])
    computed(bundle, tmp_path / "set", tmp_path / "out", OPTIONS, dedupe=True)
    found = [row["duplicate_of"] for row in rows(tmp_path / "out")]
    assert found == [None, 0, None, 0, None, None, None]
