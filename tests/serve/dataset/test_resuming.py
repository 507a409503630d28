"""A run that goes on: what it takes up, what it adds, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from command_line import tree
from dataset_sources import (
    as_folder,
    computed,
    named,
    picture,
    rows,
)

from clsspec_serve import load
from clsspec_serve.errors import DatasetError, OutputError
from clsspec_serve.request import Options

ALL: Options = {"tasks": ("cls", "patches", "segment", "depth", "classify")}
COUNT = 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten pictures, of which the seventh is none."""
    return as_folder(tmp_path / "set", named(COUNT) | {"006.png": b"no picture"})


def test_a_run_goes_on_where_it_ended_and_ends_the_same(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = ALL | {"policy": "squash"}
    computed(bundle, source, whole, options)
    with pytest.raises(DatasetError, match=r"1 picture failed, the last one 006\.png: is not an"):
        computed(bundle, source, out, options, max_errors=0)
    assert sorted(os.listdir(out / "shards")) == ["000000.json"]
    before = {name: (out / name).stat().st_mtime_ns for name in ("rows/000000.parquet",)}
    summary = computed(bundle, source, out, options)
    assert summary.computed == COUNT - 4
    assert tree(out) == tree(whole)
    assert before == {name: (out / name).stat().st_mtime_ns for name in before}
    assert computed(bundle, source, out, options).computed == 0
    assert tree(out) == tree(whole)


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"tasks": ("cls",)}, {}, "answers was cls, patches and is cls"),
        ({"size": (28, 28)}, {}, "size was the model's and is 28x28"),
        ({"policy": "fit"}, {}, "resize was None and is fit"),
        ({}, {"dtype": "float16"}, "dtype was float32 and is float16"),
        ({}, {"batch_size": 2}, "batch-size was 3 and is 2"),
        (
            {"policy": "fit"},
            {"shard_size": 5},
            "resize was None and is fit; shard-size was 4 and is 5",
        ),
    ],
)
def test_a_run_that_would_differ_is_refused_and_says_in_what(
    bundle: Path,
    source: Path,
    tmp_path: Path,
    options: Options,
    changes: dict[str, Any],
    words: str,
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out)
    before = tree(out)
    with pytest.raises(DatasetError) as caught:
        computed(bundle, source, out, options, **changes)
    assert str(caught.value) == f"{out} was begun otherwise: {words}"
    assert tree(out) == before


def test_another_bundle_or_decoder_is_refused(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed(bundle, source, tmp_path / "out")
    manifest = bundle / "clsspec.json"
    manifest.write_text(manifest.read_text().replace('"name": "tiny"', '"name": "other"'))
    monkeypatch.setattr("PIL.features.version", lambda name: "9.9")
    with pytest.raises(DatasetError) as caught:
        computed(bundle, source, tmp_path / "out")
    message = str(caught.value)
    assert "model was tiny and is other; bundle was " in message
    assert "libjpeg_turbo 9.9" in message


def test_another_column_is_refused_though_the_ids_are_the_same(
    bundle: Path, tmp_path: Path
) -> None:
    tables, out = tmp_path / "tables", tmp_path / "out"
    tables.mkdir()
    columns = {"image": [picture(0), picture(1)], "thumb": [picture(2), picture(3)]}
    pq.write_table(pa.table(columns), tables / "a.parquet")
    computed(bundle, tables, out, column="image")
    before = tree(out)
    for column, words in (("thumb", "thumb"), (None, "the usual one")):
        with pytest.raises(DatasetError) as caught:
            computed(bundle, tables, out, column=column)
        assert str(caught.value) == f"{out} was begun otherwise: column was image and is {words}"
    assert tree(out) == before


def test_a_source_that_changed_is_refused_and_says_in_what(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out)
    as_folder(source, {"003.png": picture(99) + b" ", "100.png": picture(100)})
    os.remove(source / "008.png")
    with pytest.raises(DatasetError) as caught:
        computed(bundle, source, out)
    assert str(caught.value) == (
        f"{source} is not what it was when {out} was begun: 1 new (100.png), 1 changed (003.png), "
        "1 gone (008.png); --append takes new pictures"
    )


def test_appended_pictures_are_new_shards_and_the_old_ones_stay(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options: Options = {"policy": "squash"}
    computed(bundle, source, out, options)
    before = tree(out)
    new = {f"{name}.png": picture(index) for name, index in (("0005", 50), ("zzz", 51))}
    as_folder(source, new)
    os.remove(source / "008.png")
    summary = computed(bundle, source, out, options, append=True)
    assert (summary.pictures, summary.shards, summary.computed) == (COUNT + 2, 4, 2)
    after = tree(out)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"run.json", "patches.zarr/zarr.json"}
    last = rows(out)[-2:]
    assert [(row["row"], row["id"]) for row in last] == [(12, "0005.png"), (13, "zzz.png")]
    maps = zarr.open_array(out / "patches.zarr", mode="r")
    model = load(bundle, threads=1)
    assert maps.shape[0] == 16
    np.testing.assert_array_equal(maps[13], model(new["zzz.png"], **options).patches)
    assert np.isnan(maps[10:12]).all()
    assert computed(bundle, source, out, options, append=True).computed == 0
    as_folder(source, {"aaa.png": picture(52)})
    assert computed(bundle, source, out, options, append=True).shards == 5
    assert [row["row"] for row in rows(out)[-3:]] == [12, 13, 16]


def test_pictures_that_change_under_way_are_failures(
    bundle: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clsspec_serve.dataset import batch

    resume = batch.resume

    def changing(*arguments: Any, **options: Any) -> Any:
        run = resume(*arguments, **options)
        os.remove(source / "001.png")
        (source / "009.png").write_bytes(picture(0, 42, 42))
        (source / "zzz.png").write_bytes(picture(1))
        return run

    monkeypatch.setattr(batch, "resume", changing)
    summary = computed(bundle, source, tmp_path / "out")
    assert summary.failures == {"changed": 1, "no picture": 1, "unreadable": 1}
    found = rows(tmp_path / "out")
    assert [row["id"] for row in found] == [f"{index:03}.png" for index in range(COUNT)]
    assert found[1]["error"] == "cannot be read: No such file or directory"
    assert found[9]["error"] == "was changed after it had been listed"


def test_folders_that_are_no_runs_are_left_alone(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = as_folder(tmp_path / "out", {"thesis.txt": b"mine"})
    with pytest.raises(OutputError, match=r"out has files and no run\.json; accepted is a new"):
        computed(bundle, source, out)
    assert tree(out) == {"thesis.txt": b"mine"}
    (out / "run.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"out/run\.json cannot be read: source: Field requir"):
        computed(bundle, source, out)


@pytest.mark.parametrize("content", [b"{", b'{"shard": -1}', None])
def test_a_record_that_cannot_be_read_is_one_line(
    bundle: Path, source: Path, tmp_path: Path, content: bytes | None
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out)
    record = out / "shards" / "000001.json"
    record.unlink()
    if content is None:
        record.symlink_to(record)  # nothing can be read there
    else:
        record.write_bytes(content)
    with pytest.raises(DatasetError, match=r"out/shards/000001\.json cannot be read: ") as caught:
        computed(bundle, source, out)
    assert "\n" not in str(caught.value)


def test_two_runs_at_once_in_one_folder_are_refused(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    from clsspec_serve.dataset.trees.opening import open_tree

    out = tmp_path / "out"
    with (
        open_tree(str(out)).claimed(),
        pytest.raises(OutputError, match="another process is at work in"),
    ):
        computed(bundle, source, out)
    computed(bundle, source, out)
