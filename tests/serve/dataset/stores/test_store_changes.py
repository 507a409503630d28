"""Pictures of an S3 server that are changed or deleted while a run goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from dataset_sources import as_table, picture, rows
from store_runs import SOURCE, in_the_store, run_over

from clsspec_serve.dataset import batch
from clsspec_serve.dataset.sources.find import find_source
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.dataset.sources.source import Changed


def between_listing_and_reading(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]
) -> None:
    """From now on it happens in each run, once the pictures are listed."""
    resume = batch.resume

    def resumed(*arguments: Any, **options: Any) -> Any:
        run = resume(*arguments, **options)
        happens()
        return run

    monkeypatch.setattr(batch, "resume", resumed)


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("files", "another size"),
        ("files", "the same size"),
        ("files", "nothing is left"),
        ("tars", "another size"),
        ("tars", "the same size"),
        ("tables", "another size"),
    ],
)
def test_what_is_overwritten_after_the_listing_is_a_failure_and_not_another_picture(
    bundle: Path,
    tmp_path: Path,
    data: s3fs.S3FileSystem,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    change: str,
) -> None:
    source = in_the_store(data, tmp_path, form, picture(1))
    content = {
        "another size": picture(99, 42, 56),
        "the same size": picture(99),
        "nothing is left": b"",
    }[change]
    assert (len(content) == len(picture(1))) == (change == "the same size")
    between_listing_and_reading(monkeypatch, lambda: in_the_store(data, tmp_path, form, content))
    run_over(bundle, source, tmp_path / "out")
    kinds = [row["kind"] for row in rows(tmp_path / "out")]
    if form == "files":
        # The others were written anew, too, with what they had before.
        assert kinds[1] == "changed"
    else:
        assert kinds == ["changed"] * 3


def test_a_table_that_is_overwritten_while_it_is_read_is_no_other_table(
    tmp_path: Path, data: s3fs.S3FileSystem
) -> None:
    def put(first: int) -> None:
        values = [picture(first + index) for index in range(7)]
        data.put(str(as_table(tmp_path / "a.parquet", "image", values)), "data/set/a.parquet")

    put(0)
    source = find_source(SOURCE)
    reader, items = open_reader(source.place), list(source.items())
    assert reader.read(items[0]) == picture(0)
    put(10)
    with pytest.raises(Changed):
        reader.read(items[5])


def test_what_was_overwritten_before_the_listing_is_what_is_read_in_the_same_process_too(
    bundle: Path, tmp_path: Path, data: s3fs.S3FileSystem, there: str
) -> None:
    run_over(bundle, there, tmp_path / "0")
    data.pipe("data/set/001.png", picture(99))
    assert not run_over(bundle, there, tmp_path / "1").failures
    before, after = rows(tmp_path / "0"), rows(tmp_path / "1")
    assert after[1]["cls"] != before[1]["cls"]
    assert after[2:] == before[2:]


@pytest.mark.parametrize("form", ["files", "tars", "tables"])
def test_what_is_deleted_after_the_listing_is_a_failure(
    bundle: Path,
    tmp_path: Path,
    data: s3fs.S3FileSystem,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
) -> None:
    source = in_the_store(data, tmp_path, form, picture(1))
    gone = {"files": "001.png", "tars": "a.tar", "tables": "a.parquet"}[form]
    between_listing_and_reading(monkeypatch, lambda: data.rm(f"data/set/{gone}"))
    run_over(bundle, source, tmp_path / "out")
    found = [row["error"] or "" for row in rows(tmp_path / "out")]
    bad = found[1:2] if form == "files" else found
    assert all(re.fullmatch(r"cannot be read: .*key does not exist.*|.*data/set.*", _) for _ in bad)
    if form == "files":
        assert found[0] == found[2] == ""
