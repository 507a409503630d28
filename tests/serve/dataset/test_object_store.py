"""Data sets in, and results to, a real S3 server: moto's, on this machine."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs
from command_line import tree
from dataset_sources import as_folder, as_table, as_tar, computed, named
from moto.server import ThreadedMotoServer
from video_clips import H264, numbered

from clsspec_serve.errors import DatasetError
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "depth"), "policy": "squash"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def store(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """An empty bucket called `data`, which `s3://` addresses of this process mean."""
    for name, value in (
        *(("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")),
        *(("AWS_ENDPOINT_URL", address), ("AWS_DEFAULT_REGION", "us-east-1")),
    ):
        monkeypatch.setenv(name, value)
    files = s3fs.S3FileSystem()
    files.mkdir("data")
    yield files
    files.rm("data", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return as_folder(tmp_path / "set", named(10) | {"006.png": b"no picture"})


def rows_without_ids(table: Any) -> list[dict[str, Any]]:
    return [{**row, "id": None} for row in table.to_pylist()]


@pytest.mark.parametrize("form", ["folder", "pattern", "tar", "table"])
def test_a_source_in_s3_gives_the_rows_of_one_that_is_here(
    bundle: Path, folder: Path, tmp_path: Path, store: s3fs.S3FileSystem, form: str
) -> None:
    pictures = {each.name: each.read_bytes() for each in sorted(folder.iterdir())}
    computed(bundle, folder, tmp_path / "here", OPTIONS)
    if form in ("folder", "pattern"):
        store.put(str(folder), "data/set", recursive=True)
        source = "s3://data/set" if form == "folder" else "s3://data/*/*.png"
    elif form == "tar":
        store.put(str(as_tar(tmp_path / "a.tar", pictures)), "data/a.tar")
        source = "s3://data/a.tar"
    else:
        table = as_table(tmp_path / "a.parquet", "image", list(pictures.values()))
        store.put(str(table), "data/a.parquet")
        source = "s3://data/a.parquet"
    computed(bundle, source, tmp_path / "there", OPTIONS)
    here, there = (pq.read_table(tmp_path / name / "rows") for name in ("here", "there"))
    assert rows_without_ids(there) == rows_without_ids(here)


def test_videos_in_s3_give_the_rows_of_those_that_are_here(
    bundle: Path, tmp_path: Path, store: s3fs.S3FileSystem
) -> None:
    file = numbered(tmp_path / "set" / "a.mp4", 23, **H264)
    cut = numbered(tmp_path / "set" / "b.mkv", 9, **H264)
    cut.write_bytes(cut.read_bytes()[:-300])
    computed(bundle, file.parent, tmp_path / "here", OPTIONS)
    store.put(str(file.parent), "data/set", recursive=True)
    computed(bundle, "s3://data/set", tmp_path / "there", OPTIONS)
    here, there = (pq.read_table(tmp_path / name / "rows") for name in ("here", "there"))
    assert there.to_pylist() == here.to_pylist()
    assert there.num_rows > 25


def test_results_in_s3_are_those_that_are_written_here_and_a_run_goes_on(
    bundle: Path, folder: Path, tmp_path: Path, store: s3fs.S3FileSystem
) -> None:
    computed(bundle, folder, tmp_path / "here", OPTIONS)
    with pytest.raises(DatasetError, match="1 picture failed"):
        computed(bundle, folder, "s3://data/out", OPTIONS, max_errors=0)
    assert store.ls("data/out/shards") == ["data/out/shards/000000.json"]
    assert computed(bundle, folder, "s3://data/out", OPTIONS).computed == 6
    store.get("data/out", str(tmp_path / "there"), recursive=True)
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    assert computed(bundle, folder, "s3://data/out", OPTIONS).computed == 0
    table = pq.read_table(io.BytesIO(store.cat("data/out/rows/000000.parquet")))
    assert table.num_rows == 4


def test_a_bucket_that_is_not_there_is_one_line(
    bundle: Path, tmp_path: Path, store: s3fs.S3FileSystem
) -> None:
    with pytest.raises(DatasetError, match=r"s3://nowhere/set: ") as caught:
        computed(bundle, "s3://nowhere/set", tmp_path / "out", OPTIONS)
    assert "\n" not in str(caught.value)
    assert not os.path.exists(tmp_path / "out")
