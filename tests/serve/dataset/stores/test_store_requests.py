"""What a run asks of a store, which costs money: the figures of `docs/clusters.md`."""

from __future__ import annotations

from pathlib import Path

import pytest
import s3fs
from dataset_sources import as_folder, as_table, as_tar, named
from faulty_store import Fault, FaultyStore
from store_runs import OUT, SOURCE, run_over

PICTURES = named(40)
GROUP = 5
"""Rows of a row group."""


def counted(store: FaultyStore, key: str) -> dict[str, Fault]:
    """Counts requests, and lets them through."""
    return {kind: store.fail(kind, key, "500", times=0) for kind in ("GET", "HEAD", "LIST", "PUT")}


@pytest.mark.parametrize("form", ["files", "tars", "tables"])
def test_a_picture_costs_two_requests_and_a_shard_one_for_each_file(
    bundle: Path, tmp_path: Path, store: FaultyStore, data: s3fs.S3FileSystem, form: str
) -> None:
    folder = tmp_path / "set"
    if form == "files":
        as_folder(folder, PICTURES)
    elif form == "tars":
        as_tar(folder / "a.tar", PICTURES)
    else:
        as_table(folder / "a.parquet", "image", list(PICTURES.values()))
    data.put(str(folder), "data/set", recursive=True)
    read, written = counted(store, "data/set.*"), counted(store, "data/out.*")
    run_over(bundle, SOURCE, OUT, shard_size=10, batch_size=5)
    pictures, groups = len(PICTURES), len(PICTURES) // GROUP
    if form == "tables":
        assert groups <= read["GET"].seen <= 4 * groups
        assert groups <= read["HEAD"].seen <= 3 * groups
    else:
        assert 0 <= read["GET"].seen - pictures <= 2
        assert 0 <= read["HEAD"].seen - pictures <= 2
    # Four shards of a table, an array, a tar and a record; and what is written once.
    assert written["PUT"].seen == 4 * 4 + 4
