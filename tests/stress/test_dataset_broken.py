"""Data sets in which one picture in twenty is broken: each has its row, and the others theirs."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from bounded import within
from broken_pictures import LIMIT, Picture, mixed
from broken_sources import Made, Wanted, folder_of, tables_of, tars_of
from capabilities import permissions_that_count
from command_line import tree
from dataset_sources import (
    as_folder,
    computed,
    rows,
    samples,
)
from http_server import colour_bundle
from long_cases import mostly_long
from PIL import Image

from clsspec_serve import load
from clsspec_serve.dataset.batch import Summary
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.verification import verify_files
from clsspec_serve.errors import DatasetError
from clsspec_serve.images import ImageLimits
from clsspec_serve.request import Options

COUNT = 2000
SEED = 20260208
SECONDS = 100
"""For any run here; a whole one took less than a tenth of it on two cores."""
SHARDS = {"shard_size": 50, "batch_size": 8}
SQUASH: Options = {
    "tasks": ("cls", "patches", "segment", "depth", "classify"),
    "policy": "squash",
    "limits": ImageLimits(max_pixels=LIMIT),
}
FIT: Options = {**SQUASH, "policy": "fit"}
VECTORS = ("cls", "classify")
EVERY = 7
"""Of the good ones, which are compared with what the model gives for one alone."""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundle(tmp_path / "colours")


@pytest.fixture(scope="module")
def pictures(tenth: bool) -> list[Picture]:
    return mixed(COUNT // 10 if tenth else COUNT, SEED)


FORMS: dict[str, tuple[Callable[[Path, Sequence[Picture]], Made], Options]] = {
    "a folder": (folder_of, SQUASH),
    "a folder, many grids": (folder_of, FIT),
    "tars": (tars_of, SQUASH),
    "tables": (tables_of, FIT),
}


def run_over(
    bundle: Path, source: str | Path, out: Path, options: Options, **changes: Any
) -> Summary:
    """A run that may not read what its user may not, and has to end."""

    def work() -> Summary:
        with permissions_that_count():
            return computed(bundle, source, out, options, **SHARDS, **changes)

    return within(SECONDS, work)


@pytest.mark.parametrize("form", mostly_long(FORMS, ("a folder", "tars")))
def test_each_broken_picture_has_a_row_that_says_why_and_spoils_no_other(
    bundle: Path, tmp_path: Path, pictures: list[Picture], form: str
) -> None:
    make, options = FORMS[form]
    made = make(tmp_path / "set", pictures)
    out, clean = tmp_path / "out", tmp_path / "clean"
    summary = run_over(bundle, made.source, out, options)
    kinds = Counter(each.failure[0] for each in made.wanted if each.failure)
    assert summary.failures == kinds
    assert summary.pictures == summary.computed == len(made.wanted)
    assert summary.text().endswith(
        f"; {kinds.total()} failed: "
        + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    )
    assert kinds.total() >= len(pictures) // 20 * 3 / 4
    has_the_rows(out, made.wanted)
    has_what_the_model_gives(bundle, out, made.wanted, options)
    good = [each.content for each in made.wanted if each.content is not None]
    files = {f"{index:06}.png": content for index, content in enumerate(good)}
    run_over(bundle, as_folder(tmp_path / "good", files), clean, options)
    has_the_answers_of(out, clean)
    run = open_run(open_tree(str(out)))
    report = verify_files(run, run.records())
    assert (report.problems, report.failed) == ((), kinds.total())


def has_the_rows(out: Path, wanted: Sequence[Wanted]) -> None:
    """Each in its place: a whole answer, or a failure and nothing else."""
    found = rows(out)
    assert [row["id"] for row in found] == [each.id for each in wanted]
    assert [row["row"] for row in found] == list(range(len(wanted)))
    for row, each in zip(found, wanted, strict=True):
        answers = [row[name] for name in (*VECTORS, "geometry", "height", "width")]
        if each.failure is None:
            assert row["error"] is row["kind"] is None, row
            assert None not in answers
            assert np.isfinite([*row["cls"], *row["classify"]]).all()
            assert each.content is not None
            with Image.open(io.BytesIO(each.content)) as image:
                assert (row["width"], row["height"]) == image.size
            continue
        kind, words = each.failure
        assert row["kind"] == kind, row
        assert re.fullmatch(words, row["error"]), (row["id"], row["error"], words)
        assert row["error"].isprintable()
        assert answers == [None] * 5
    good = [row for row, each in enumerate(wanted) if each.failure is None]
    by_name = {int(sample["__key__"]): sample for sample in samples(out)}
    assert list(by_name) == good
    about = [json.loads(sample["json"]) for sample in by_name.values()]
    assert [each["id"] for each in about] == [wanted[row].id for row in good]
    if (out / "patches.zarr").exists():
        maps = zarr.open_array(out / "patches.zarr", mode="r")[:]
        there = np.isfinite(maps).all((1, 2, 3))
        assert np.flatnonzero(there).tolist() == good
        assert np.isnan(maps[~there]).all()


def has_what_the_model_gives(
    bundle: Path, out: Path, wanted: Sequence[Wanted], options: Options
) -> None:
    """Bit by bit, for some of the good ones, each of which was computed alone."""
    found, model = rows(out), load(bundle, threads=1)
    maps = out / "patches.zarr"
    stored = zarr.open_array(maps, mode="r")[:] if maps.exists() else None
    files = {int(sample["__key__"]): sample for sample in samples(out)}
    good = [row for row, each in enumerate(wanted) if each.content is not None]
    for row in good[::EVERY]:
        content = wanted[row].content
        assert content is not None
        alone = model(content, **options).arrays
        for name in VECTORS:
            np.testing.assert_array_equal(np.float32(found[row][name]), alone[name])
        own = files[row]
        patches = np.load(io.BytesIO(own["patches.npy"])) if stored is None else stored[row]
        np.testing.assert_array_equal(patches, alone["patches"])
        mask = np.asarray(Image.open(io.BytesIO(own["segment.png"])))
        np.testing.assert_array_equal(mask, alone["segment"])


def has_the_answers_of(out: Path, clean: Path) -> None:
    """The good rows are those of a run over the good pictures alone."""
    left, right = rows(out), rows(clean)
    good = [row["row"] for row in left if row["error"] is None]
    assert len(good) == len(right)
    without = {"row": None, "id": None}
    assert [{**left[row], **without} for row in good] == [{**row, **without} for row in right]

    def files(folder: Path) -> list[dict[str, Any]]:
        return [
            {name: content for name, content in sample.items() if name.endswith((".png", ".npy"))}
            for sample in samples(folder)
        ]

    assert files(out) == files(clean)
    if (out / "patches.zarr").exists():
        with_bad, alone = (
            zarr.open_array(folder / "patches.zarr", mode="r")[:] for folder in (out, clean)
        )
        np.testing.assert_array_equal(with_bad[good], alone[: len(good)])


def test_too_many_broken_pictures_end_a_run_at_the_first_one_that_is_too_many(
    bundle: Path, tmp_path: Path, pictures: list[Picture]
) -> None:
    source = as_folder(tmp_path / "set", {each.name: each.content for each in pictures})
    broken = [index for index, each in enumerate(pictures) if each.failure]
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_over(bundle, source, whole, SQUASH, max_errors=len(broken))
    for accepted in (0, len(broken) // 2, len(broken) - 1):
        over = pictures[broken[accepted]]
        assert over.failure is not None
        with pytest.raises(DatasetError) as caught:
            run_over(bundle, source, out, SQUASH, max_errors=accepted)
        noun = "picture" if accepted == 0 else "pictures"
        begin = f"{accepted + 1} {noun} failed, the last one {over.name}: "
        end = f"; accepted are {accepted} (--max-errors)"
        assert re.fullmatch(
            f"{re.escape(begin)}{over.failure[1]}{re.escape(end)}", str(caught.value)
        )
        shards = out / "shards"
        done = len(list(shards.iterdir())) if shards.exists() else 0
        assert done == broken[accepted] // SHARDS["shard_size"]
    run_over(bundle, source, out, SQUASH)
    assert tree(out) == tree(whole)
