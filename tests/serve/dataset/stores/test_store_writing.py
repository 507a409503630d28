"""An S3 server that fails while results are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import s3fs
from command_line import tree
from faulty_store import FaultyStore
from store_runs import OUT, refused, run_over

from clsspec_serve.errors import OutputError

WRITTEN = (
    *(("run.json", 0), ("listing/0.parquet", 0), ("patches.zarr/zarr.json", 0), ("run.json", 1)),
    *(("rows/000001.parquet", 0), ("patches.zarr/c/1/0/0/0", 0), ("samples/000001.tar", 0)),
    *(("shards/000001.json", 0), ("shards/000002.json", 0)),
)
"""Objects of a run, and how many times each was written before."""


@pytest.mark.parametrize(
    ("path", "skip", "answer"),
    [
        *((path, skip, "500") for path, skip in WRITTEN),
        *((path, skip, "denied") for path, skip in WRITTEN[::4]),
        *((path, skip, "reset") for path, skip in WRITTEN[::4]),
    ],
)
def test_a_file_that_cannot_be_written_ends_the_run_and_the_same_command_goes_on(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    path: str,
    skip: int,
    answer: str,
) -> None:
    fault = store.fail("PUT", f"data/out/{path}", answer, skip=skip)
    message = refused(OutputError, lambda: run_over(bundle, here, OUT))
    assert fault.failed
    assert message.startswith(f"cannot write {OUT}/{path}: ")
    number = re.search(r"/c/(\d)|00000(\d)", path)
    done = int(number[1] or number[2]) if number else 0
    records = [Path(name).name for name in data.find("data/out/shards")]
    assert records == [f"{shard:06}.json" for shard in range(done)]
    if path == "run.json" and not skip:
        assert not data.exists("data/out")
    store.faults.clear()
    run_over(bundle, here, OUT)
    run_over(bundle, here, tmp_path / "whole")
    data.get("data/out", str(tmp_path / "out"), recursive=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("answer", ["500", "reset"])
def test_files_that_cannot_be_written_for_a_moment_are_written_after_all(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    answer: str,
) -> None:
    faults = [
        store.fail("PUT", f"data/out/{path}", answer, times=1)
        for path in ("run.json", "rows/000001.parquet", "shards/000002.json")
    ]
    run_over(bundle, here, OUT)
    assert [fault.failed for fault in faults] == [1, 1, 1]
    run_over(bundle, here, tmp_path / "whole")
    data.get("data/out", str(tmp_path / "out"), recursive=True)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_bucket_that_is_not_there_cannot_be_written_to(
    bundle: Path, here: Path, data: s3fs.S3FileSystem
) -> None:
    message = refused(OutputError, lambda: run_over(bundle, here, "s3://nowhere/out"))
    assert message == "cannot write s3://nowhere/out/run.json: The specified bucket does not exist"
