"""Pictures with the same bytes: computed once, and a row for each that says which one was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from command_line import tree
from dataset_sources import (
    as_folder,
    as_table,
    as_tar,
    computed,
    picture,
    rows,
    samples,
    settings_of,
)
from http_server import observed
from hypothesis import given
from hypothesis import strategies as st

from clsspec_serve import load
from clsspec_serve.bundle import describe
from clsspec_serve.dataset.contents import (
    first_rows,
    read_digests,
    read_shard,
    write_contents,
)
from clsspec_serve.dataset.planning import plan
from clsspec_serve.dataset.recomputing import recompute
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.runners.processes import Processes
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.verification import verify_files
from clsspec_serve.dataset.worker import Resources
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError
from clsspec_serve.request import Options

ALL: Options = {"tasks": ("cls", "patches", "segment"), "policy": "squash"}
ORIGINALS = [None, None, None, 0, 1, None, 3 - 3, None, 7, 7, None]
"""Of `set_of`: by row, the row of the first picture with the same bytes."""


def set_of(folder: Path) -> Path:
    """Eleven pictures, three shards of four, of which some are the same, in other shards too."""
    kinds = [0, 1, 2, 0, 1, 3, 0, b"no picture", b"no picture", b"no picture", 4]
    contents = [each if isinstance(each, bytes) else picture(each) for each in kinds]
    return as_folder(folder, {f"{row:03}.png": content for row, content in enumerate(contents)})


def state(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


@given(
    st.lists(st.sampled_from([b"", b"a", b"a\0b", b"c", b"\0\0d"]), min_size=1), st.integers(1, 3)
)
def test_the_first_row_is_that_of_the_first_equal_digest(found: list[bytes], step: int) -> None:
    numbers = np.arange(len(found)) * step
    expected = [row if not each else found.index(each) for row, each in enumerate(found)]
    first = first_rows(np.array(found, "S32"), numbers)
    assert first.tolist() == [step * row for row in expected]


def test_the_first_of_the_same_pictures_is_computed_and_the_others_say_which(
    bundle: Path, tmp_path: Path
) -> None:
    source, out, plain = set_of(tmp_path / "set"), tmp_path / "out", tmp_path / "plain"
    seen = 0

    def count(inputs: Any) -> None:
        nonlocal seen
        seen += len(inputs["pixels"])

    runner = Here(observed(bundle, count), Threads(2, 2))
    summary = computed(bundle, source, out, ALL, runner=runner, dedupe=True)
    assert seen == 5
    assert summary.failures == {"no picture": 1}
    assert summary.duplicates == 5
    assert "; 5 duplicates; 1 failed: 1 no picture" in summary.text()
    computed(bundle, source, plain, ALL)
    patches, every = (zarr.open_array(each / "patches.zarr", mode="r") for each in (out, plain))
    masks = {each["__key__"] for each in samples(out)}
    for row, (own, whole) in enumerate(zip(rows(out), rows(plain), strict=True)):
        content = (source / own["id"]).read_bytes()
        assert own["sha256"] == hashlib.sha256(content).hexdigest()
        assert own["duplicate_of"] == ORIGINALS[row]
        if ORIGINALS[row] is None:
            assert {name: own[name] for name in whole} == whole
            np.testing.assert_array_equal(patches[row], every[row])
            assert (f"{row:012}" in masks) == (whole["error"] is None)
            continue
        assert {own[name] for name in ("error", "kind", "height", "geometry", "cls")} == {None}
        assert np.isnan(patches[row]).all()
        assert f"{row:012}" not in masks
        original = rows(out)[ORIGINALS[row]]
        assert (original["cls"], original["error"]) == (whole["cls"], whole["error"])


def test_without_it_every_picture_is_computed(bundle: Path, tmp_path: Path) -> None:
    computed(bundle, set_of(tmp_path / "set"), tmp_path / "out", ALL)
    assert "duplicate_of" not in rows(tmp_path / "out")[0]
    assert sum(row["cls"] is None for row in rows(tmp_path / "out")) == 3


@pytest.mark.parametrize("form", ["tar", "table"])
def test_members_and_rows_are_compared_by_their_bytes(
    bundle: Path, tmp_path: Path, form: str
) -> None:
    contents = [picture(each) for each in (0, 1, 0, 2, 1)]
    if form == "tar":
        source = as_tar(tmp_path / "a.tar", {f"{i}.png": each for i, each in enumerate(contents)})
    else:
        source = as_table(tmp_path / "a.parquet", "image", contents)
    computed(bundle, source, tmp_path / "out", ALL, dedupe=True)
    assert [row["duplicate_of"] for row in rows(tmp_path / "out")] == [None, None, 0, None, 1]


def test_pictures_that_cannot_be_read_are_no_duplicates(bundle: Path, tmp_path: Path) -> None:
    as_folder(tmp_path, {"a.png": picture(0)})
    (tmp_path / "list.txt").write_text("lost.png\na.png\ngone.png\n")
    summary = computed(bundle, tmp_path / "list.txt", tmp_path / "out", ALL, dedupe=True)
    assert [(row["sha256"] is None, row["duplicate_of"]) for row in rows(tmp_path / "out")] == [
        (True, None),
        (False, None),
        (True, None),
    ]
    assert summary.failures == {"unreadable": 2}


def test_rows_with_nothing_are_no_duplicates_of_each_other(bundle: Path, tmp_path: Path) -> None:
    source = as_table(tmp_path / "a.parquet", "image", [None, picture(0), None])
    summary = computed(bundle, source, tmp_path / "out", ALL, dedupe=True)
    assert [row["duplicate_of"] for row in rows(tmp_path / "out")] == [None] * 3
    assert summary.failures == {"unreadable": 2}


def test_what_is_known_is_kept_whole(tmp_path: Path) -> None:
    values = [b"\1" * 31 + b"\0", b"", b"\0" * 31 + b"\1", b"\1" * 31 + b"\0", b"\2" * 30 + b"\0\0"]
    found, numbers = np.array(values, "S32"), np.arange(10, 15)
    first = first_rows(found, numbers)
    write_contents(tmp_path / "contents", found, first, numbers, 3)
    kept = [read_shard(tmp_path / "contents", index) for index in (0, 1)]
    assert [each.sha256 or b"" for shard in kept for each in shard] == values
    assert [each.duplicate_of for each in kept[1]] == [10, None]
    np.testing.assert_array_equal(read_digests(tmp_path / "contents"), found)


def test_two_processes_give_the_bytes_of_one(bundle: Path, tmp_path: Path) -> None:
    source, runner = set_of(tmp_path / "set"), Processes([Resources(1, Threads(2, 1))] * 2)
    computed(bundle, source, tmp_path / "one", ALL, dedupe=True)
    computed(bundle, source, tmp_path / "two", ALL, dedupe=True, runner=runner)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_a_run_that_goes_on_knows_its_duplicates(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, whole = set_of(tmp_path / "set"), tmp_path / "out", tmp_path / "whole"
    computed(bundle, source, whole, ALL, dedupe=True)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("clsspec_serve.dataset.duplicates.write_contents", killed)
        with pytest.raises(KeyboardInterrupt):
            computed(bundle, source, out, ALL, dedupe=True)
    assert state(out)["parts"][0]["contents"] is None
    with pytest.raises(DatasetError, match="1 picture failed"):
        computed(bundle, source, out, ALL, dedupe=True, max_errors=0)
    assert state(out) == state(whole)
    with monkeypatch.context() as patched:  # they are not read again
        patched.setattr("clsspec_serve.dataset.duplicates.open_reader", killed)
        computed(bundle, source, out, ALL, dedupe=True)
    assert tree(out) == tree(whole)


def test_new_pictures_are_duplicates_of_those_before_and_of_each_other(
    bundle: Path, tmp_path: Path
) -> None:
    source, out = set_of(tmp_path / "set"), tmp_path / "out"
    computed(bundle, source, out, ALL, dedupe=True)
    before = tree(out)
    more = {"x.png": picture(9), "y.png": picture(2), "z.png": picture(9)}
    as_folder(source, more)
    summary = computed(bundle, source, out, ALL, dedupe=True, append=True)
    assert (summary.computed, summary.duplicates) == (3, 7)
    found = pq.read_table(out / "rows").to_pylist()[11:]
    # The third shard has three pictures, so that the next one begins at the twelfth row.
    assert [(row["row"], row["duplicate_of"]) for row in found] == [(12, None), (13, 2), (14, 12)]
    changed = {path for path, content in before.items() if tree(out)[path] != content}
    assert changed == {"run.json", "patches.zarr/zarr.json"}


def test_a_run_is_verified_with_its_duplicates(bundle: Path, tmp_path: Path) -> None:
    source, out = set_of(tmp_path / "set"), tmp_path / "out"
    computed(bundle, source, out, ALL, dedupe=True)
    run = open_run(open_tree(str(out)))
    records = run.records()
    assert verify_files(run, records).problems == ()
    found = recompute(run, records, load(bundle, threads=1), Threads(2, 2), 20)
    assert (found.pictures, found.problems, found.left) == (6, [], [])
    path = out / "listing" / "0.contents.parquet"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    (problem,) = verify_files(run, records).problems
    assert problem.startswith("listing/0.contents.parquet: has ")
    table = pq.read_table(out / "rows" / "000001.parquet")
    changed = table.to_pylist()
    changed[0]["duplicate_of"] = 2
    path.write_bytes(good)
    place = out / "rows" / "000001.parquet"
    pq.write_table(table.from_pylist(changed, table.schema), place)
    files = records[1].files | {"rows/000001.parquet": describe(place)}
    told = verify_files(run, {1: records[1].model_copy(update={"files": files})}).problems
    assert told == ("rows/000001.parquet: has other duplicates than were found",)
    changed = table.to_pylist()
    changed[1]["duplicate_of"] = 2
    pq.write_table(table.from_pylist(changed, table.schema), place)
    found = recompute(run, records, load(bundle, threads=1), Threads(2, 2), 20)
    assert found.problems == ["005.png: was stored with other bytes, or of another original"]


def test_what_was_found_and_is_lost_is_the_runs_error(bundle: Path, tmp_path: Path) -> None:
    source, out = set_of(tmp_path / "set"), tmp_path / "out"
    computed(bundle, source, out, ALL, dedupe=True)
    (out / "listing" / "0.contents.parquet").unlink()
    (out / "shards" / "000001.json").unlink()
    with pytest.raises(
        DatasetError, match=r"out/listing/0\.contents\.parquet cannot be read: No such"
    ):
        computed(bundle, source, out, ALL, dedupe=True)


def test_with_and_without_are_different_runs(bundle: Path, tmp_path: Path) -> None:
    source, out = set_of(tmp_path / "set"), tmp_path / "out"
    computed(bundle, source, out, ALL)
    with pytest.raises(DatasetError, match="begun otherwise: dedupe was False and is True"):
        computed(bundle, source, out, ALL, dedupe=True)


def test_a_plan_counts_duplicates_as_pictures(bundle: Path, tmp_path: Path) -> None:
    source, out = set_of(tmp_path / "set"), tmp_path / "out"
    model = load(bundle, threads=1)
    runner = Here(model, Threads(2, 2))
    found = plan(model.bundle, settings_of(bundle, source, out, ALL, dedupe=True), runner)
    assert (found.pictures, found.sample and found.sample.pictures) == (11, 11)
    computed(bundle, source, out, ALL, dedupe=True)
    (out / "shards" / "000001.json").unlink()
    half = plan(model.bundle, settings_of(bundle, source, out, ALL, dedupe=True), runner)
    assert (half.shards_done, half.coming, half.unsearched) == (2, 2, False)
    assert (found.coming, found.unsearched) == (11, True)


def test_vectors_of_duplicates_are_not_there(bundle: Path, tmp_path: Path) -> None:
    source, out = set_of(tmp_path / "set"), tmp_path / "out"
    computed(bundle, source, out, ALL, dedupe=True, npy=True)
    lacking = np.isnan(np.load(out / "cls.npy")).all(1)
    assert lacking.tolist() == [each is not None or row == 7 for row, each in enumerate(ORIGINALS)]


def test_of_duplicates_the_original_is_computed_again(bundle: Path, tmp_path: Path) -> None:
    contents = {"000.png": picture(0)} | {f"{row:03}.png": picture(1) for row in range(1, 40)}
    source, out = as_folder(tmp_path / "set", contents), tmp_path / "out"
    computed(bundle, source, out, ALL, dedupe=True)
    run = open_run(open_tree(str(out)))
    found = recompute(run, run.records(), load(bundle, threads=1), Threads(2, 2), 8)
    assert (found.pictures, found.problems, found.left) == (1, [], [])
    (out / "shards" / "000005.json").unlink()
    # What is left is known to be duplicates, of which the plan computes none.
    model = load(bundle, threads=1)
    settings = settings_of(bundle, source, out, ALL, dedupe=True)
    half = plan(model.bundle, settings, Here(model, Threads(2, 2)))
    assert (half.coming, half.sample) == (0, None)


def test_a_name_with_a_colon_is_no_address(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_of(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    computed(bundle, "set", "pca:8", ALL, dedupe=True)
    assert len(rows(tmp_path / "pca:8")) == 11
