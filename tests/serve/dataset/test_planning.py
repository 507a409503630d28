"""What a run is said to take, against what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import tree
from dataset_sources import as_folder, computed, named, picture, settings_of

from clsspec_serve import load
from clsspec_serve.dataset.planning import Plan, plan
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError, OutputError
from clsspec_serve.request import Options

OPTIONS: Options = {"tasks": ("cls", "patches", "segment", "depth"), "policy": "squash"}
SHARD = 16
BEGUN = {"run.json", "listing/0.parquet", "patches.zarr/zarr.json"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """As many pictures as fill shards and a half, and one that is none."""
    return as_folder(tmp_path / "set", named(88) | {"044.png": b"no picture"})


def planned(bundle: Path, source: Path, out: Path, **changes: Any) -> Plan:
    model = load(bundle, threads=1)
    changes = {"shard_size": SHARD, **changes}
    settings = settings_of(bundle, source, out, OPTIONS, **changes)
    return plan(model.bundle, settings, Here(model, Threads(2, 2)))


def files(out: Path) -> dict[str, bytes]:
    """Those of a run's folder, without the folders."""
    return {path: content for path, content in tree(out).items() if content is not None}


def sizes(out: Path) -> dict[str, int]:
    """Bytes below each name of a run's folder, without what is written when it begins."""
    found: dict[str, int] = {}
    for path in files(out).keys() - BEGUN:
        name = path.split("/")[0]
        found[name] = found.get(name, 0) + (out / path).stat().st_size
    return found


@pytest.mark.parametrize("changes", [{}, {"policy": "fit"}, {"npy": True, "dtype": "float16"}])
def test_files_and_bytes_are_those_that_the_run_writes(
    bundle: Path, source: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    found = planned(bundle, source, out, **changes)
    assert not out.exists()
    assert (found.pictures, found.shards, found.pictures_done, found.shards_done) == (88, 6, 0, 0)
    computed(bundle, source, out, OPTIONS, shard_size=SHARD, **changes)
    there = sizes(out)
    assert found.files == len(files(out).keys() - BEGUN)
    assert found.sizes.keys() == there.keys() - {"shards"}
    for name, size in found.sizes.items():
        # Small tables are mostly of what stands once in each.
        assert size == pytest.approx(there[name], rel=0.4 if name == "rows" else 0.1)
    assert found.sample is not None
    assert found.sample.pictures == 48
    assert found.sample.rate is not None
    assert found.sample.rate > 0


def test_what_is_done_is_not_counted_again(bundle: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match="1 picture failed"):
        computed(bundle, source, out, OPTIONS, shard_size=SHARD, max_errors=0)
    before = tree(out)
    found = planned(bundle, source, out)
    assert (found.shards_done, found.pictures_done) == (2, 2 * SHARD)
    assert found.files == 4 * 4
    whole = planned(bundle, source, tmp_path / "new")
    assert found.sizes["patches.zarr"] < whole.sizes["patches.zarr"] * 4 / 6
    assert tree(out) == before


def test_of_a_finished_run_nothing_is_to_come_until_there_is_more(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS, shard_size=SHARD)
    found = planned(bundle, source, out)
    assert (found.shards, found.shards_done, found.files, found.sample) == (6, 6, 0, None)
    as_folder(source, {"more.png": picture(1)})
    before = tree(out)
    with pytest.raises(DatasetError, match=f"is not what it was when {out} was begun: 1 new"):
        planned(bundle, source, out)
    found = planned(bundle, source, out, append=True)
    assert (found.shards, found.shards_done, found.pictures) == (7, 6, 89)
    assert found.sample is not None
    assert (found.sample.pictures, found.sample.rate) == (1, None)
    assert tree(out) == before


def test_a_run_that_was_begun_otherwise_is_refused_by_its_name(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    computed(bundle, source, out, OPTIONS, shard_size=SHARD)
    with pytest.raises(DatasetError, match=f"^{out} was begun otherwise: shard-size was 16 and"):
        planned(bundle, source, out, shard_size=8)


def test_a_folder_of_other_files_is_refused_as_the_run_would(
    bundle: Path, source: Path, tmp_path: Path
) -> None:
    out = as_folder(tmp_path / "out", {"notes.txt": b"mine"})
    with pytest.raises(OutputError, match=r"has files and no run\.json; accepted is a new folder"):
        planned(bundle, source, out)
