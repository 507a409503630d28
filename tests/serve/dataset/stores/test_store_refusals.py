"""A store of which a source or a run cannot be read: one line, and nothing is lost."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from faulty_store import FaultyStore
from fsspec.implementations.memory import MemoryFileSystem
from store_runs import OUT, SOURCE, refused, run_over

from clsspec_serve.dataset.run import is_run
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.errors import ClsspecError, DatasetError, UsageError


@pytest.mark.parametrize("kind", ["LIST", "PUT"])
def test_an_answer_of_two_lines_is_told_in_one(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, kind: str
) -> None:
    store.fail(kind, "data/set/" if kind == "LIST" else "data/out/run.json", "two lines")
    assert "An internal error. Try again." in refused(
        ClsspecError, lambda: run_over(bundle, there, OUT)
    )


@pytest.mark.parametrize(
    ("before", "answer"),
    [
        pytest.param(0, "500", id="when it is looked for"),
        pytest.param(1, "denied", id="when it is counted"),
        pytest.param(2, "500", id="when it is listed"),
        pytest.param(0, "reset", id="when it is looked for, lost"),
        pytest.param(2, "reset", id="when it is listed, lost"),
    ],
)
def test_a_source_that_cannot_be_listed_is_one_line(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, before: int, answer: str
) -> None:
    fault = store.fail("LIST", "data/set/", answer, skip=before)
    message = refused(DatasetError, lambda: run_over(bundle, there, tmp_path / "out"))
    assert fault.failed
    assert message.startswith(f"{SOURCE}: cannot be read: ")


def test_a_source_that_cannot_be_listed_for_a_moment_is_listed_after_all(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str
) -> None:
    fault = store.fail("LIST", "data/set/", "reset", skip=2, times=2)
    assert run_over(bundle, there, tmp_path / "out").pictures == 10
    assert fault.failed == 2


@pytest.mark.parametrize("answer", ["500", "denied", "reset"])
def test_a_run_whose_state_cannot_be_read_is_one_line_and_stays_as_it_is(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    answer: str,
) -> None:
    with pytest.raises(DatasetError, match="1 picture failed"):
        run_over(bundle, here, OUT, max_errors=0)
    before = {name: data.cat(name) for name in data.find("data/out")}
    store.fail("GET", "data/out/run.json", answer)
    message = refused(DatasetError, lambda: run_over(bundle, here, OUT))
    assert message.startswith(f"{OUT}/run.json cannot be read: ")
    store.faults.clear()
    assert {name: data.cat(name) for name in data.find("data/out")} == before


@pytest.mark.parametrize(
    ("kind", "key", "answer"),
    [
        ("HEAD", r"data/out/run\.json", "denied"),
        ("LIST", "data/out/shards/", "500"),
        ("GET", r"data/out/shards/000000\.json", "denied"),
        ("GET", r"data/out/listing/0\.parquet", "500"),
    ],
)
def test_a_run_that_cannot_be_looked_at_is_one_line(
    bundle: Path,
    here: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    kind: str,
    key: str,
    answer: str,
) -> None:
    with pytest.raises(DatasetError, match="1 picture failed"):
        run_over(bundle, here, OUT, max_errors=0)
    fault = store.fail(kind, key, answer)
    message = refused(ClsspecError, lambda: run_over(bundle, here, OUT))
    assert fault.failed
    assert OUT in message


def test_a_listing_that_is_damaged_is_one_line(
    bundle: Path, here: Path, data: s3fs.S3FileSystem
) -> None:
    with pytest.raises(DatasetError, match="1 picture failed"):
        run_over(bundle, here, OUT, max_errors=0)
    data.pipe("data/out/listing/0.parquet", b"PAR1")
    message = refused(DatasetError, lambda: run_over(bundle, here, OUT))
    assert message.startswith(f"{OUT}/listing/0.parquet cannot be read: ")


class Picky(MemoryFileSystem):
    """A store that takes no options, as sftp, and at times does not answer."""

    protocol = "picky"
    cachable = False
    up = True

    def __init__(self) -> None:
        super().__init__()
        if not self.up:
            raise RuntimeError("no\nconnection")

    def info(self, path: str, **options: Any) -> Any:
        if path.endswith("lost/run.json"):
            raise RuntimeError("no\nconnection")
        return super().info(path, **options)


def test_errors_of_any_store_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("picky", Picky)
    assert not is_run(open_tree("picky://data/out"))
    message = refused(DatasetError, lambda: is_run(open_tree("picky://data/lost")))
    assert message == "picky://data/lost/run.json cannot be read: no connection"
    monkeypatch.setattr(Picky, "up", False)
    message = refused(UsageError, lambda: open_tree("picky://data/out"))
    assert message == "picky://data/out: no connection"


def test_a_store_that_denies_everything_is_one_line(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str
) -> None:
    for kind in ("GET", "HEAD", "LIST", "PUT"):
        store.fail(kind, ".*", "denied")
    message = refused(DatasetError, lambda: run_over(bundle, there, tmp_path / "out"))
    assert re.fullmatch(f"{SOURCE}: cannot be read: (Forbidden|Access Denied)", message)
    assert not os.path.exists(tmp_path / "out")


def test_a_server_that_is_not_there_is_one_line(
    bundle: Path, tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        message = refused(DatasetError, lambda: run_over(bundle, there, tmp_path / "out"))
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert message.startswith(f"{SOURCE}: ")
