"""An S3 server that fails while pictures are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import s3fs
from command_line import tree
from dataset_sources import picture, rows
from faulty_store import FaultyStore
from store_runs import in_the_store, refused, run_over

from clsspec_serve.errors import DatasetError


@pytest.mark.parametrize("answer", ["500", "503", "reset", "cut", "stall"])
def test_pictures_that_cannot_be_read_for_a_moment_are_read_after_all(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, answer: str
) -> None:
    run_over(bundle, there, tmp_path / "whole")
    times = 1 if answer in ("cut", "stall") else 2
    faults = [
        store.fail("GET", f"data/set/{name}", answer, times=times)
        for name in ("000.png", "004.png", "009.png")
    ]
    assert not run_over(bundle, there, tmp_path / "out").failures
    assert [fault.failed for fault in faults] == [times] * 3
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("500", "cannot be read: We encountered an internal error."),
        ("503", "cannot be read: Please reduce your request rate."),
        ("two lines", "cannot be read: An internal error. Try again."),
        ("denied", "cannot be read: Access Denied"),
        ("reset", "cannot be read: Connection was closed before we rec"),
        ("cut", "cannot be read: Response payload is not completed"),
    ],
)
def test_a_picture_that_can_never_be_read_is_a_failure_of_its_own(
    bundle: Path, tmp_path: Path, store: FaultyStore, there: str, answer: str, words: str
) -> None:
    run_over(bundle, there, tmp_path / "whole")
    store.fail("GET", r"data/set/003\.png", answer)
    assert run_over(bundle, there, tmp_path / "out").failures == {"unreadable": 1}
    found, whole = rows(tmp_path / "out"), rows(tmp_path / "whole")
    bad = found.pop(3)
    assert (bad["id"], bad["kind"], bad["cls"]) == ("003.png", "unreadable", None)
    assert bad["error"].startswith(words)
    assert bad["error"].isprintable()
    assert found == whole[:3] + whole[4:]


@pytest.mark.parametrize("form", ["tars", "tables"])
@pytest.mark.parametrize("answer", ["500", "reset"])
def test_an_archive_that_cannot_be_listed_is_a_failure_of_its_own(
    bundle: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    form: str,
    answer: str,
) -> None:
    source = in_the_store(data, tmp_path, form, picture(1))
    store.fail("GET", r"data/set/a\..+", answer)
    run_over(bundle, source, tmp_path / "out")
    (row,) = rows(tmp_path / "out")
    assert row["kind"] == "unreadable"
    assert row["error"].startswith("cannot be read: ")
    assert row["error"].isprintable()


def test_an_empty_member_of_a_tar_is_read_as_such(
    bundle: Path, tmp_path: Path, data: s3fs.S3FileSystem
) -> None:
    run_over(bundle, in_the_store(data, tmp_path, "tars", b""), tmp_path / "out")
    assert [row["kind"] for row in rows(tmp_path / "out")] == [None, "no picture", None]


@pytest.mark.parametrize(
    ("answer", "words"), [("500", "Internal Server Error"), ("reset", "Connection was closed")]
)
def test_a_listed_picture_of_which_nothing_is_known_is_not_taken_for_a_missing_one(
    bundle: Path,
    tmp_path: Path,
    store: FaultyStore,
    data: s3fs.S3FileSystem,
    there: str,
    answer: str,
    words: str,
) -> None:
    source = f"{there}/list.txt"
    data.pipe(source, b"000.png\nno.png\n001.png\n")
    run_over(bundle, source, tmp_path / "whole")
    errors = [row["error"] for row in rows(tmp_path / "whole")]
    assert errors == [None, "there is no such file", None]
    store.fail("HEAD", r"data/set/001\.png", answer)
    message = refused(DatasetError, lambda: run_over(bundle, source, tmp_path / "out"))
    assert message.startswith(f"{source}: cannot be read: {words}")
