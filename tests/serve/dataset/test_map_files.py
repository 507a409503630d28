"""The files of arrays, which have to be those that zarr itself would write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from dataset_sources import as_folder, computed, named

from clsspec_serve import load


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_shard_has_the_bytes_that_zarr_writes(bundle: Path, tmp_path: Path, dtype: str) -> None:
    """Of shards with all pictures, without one, with fewer, and of one without any that is good."""
    bad = ("005.png", "008.png", "009.png", "010.png", "011.png")
    pictures = named(14) | dict.fromkeys(bad, b"no picture")
    source, out = as_folder(tmp_path / "set", pictures), tmp_path / "out"
    computed(bundle, source, out, {"policy": "squash"}, dtype=dtype)
    found = zarr.open_array(out / "patches.zarr", mode="r")
    assert found.dtype == dtype
    model = load(bundle, threads=1)
    values = np.full(found.shape, np.nan, dtype)
    for row, (name, content) in enumerate(sorted(pictures.items())):
        if name not in bad:
            values[row] = model(content, policy="squash").patches
    np.testing.assert_array_equal(found[:], values)
    own = zarr.create_array(
        tmp_path / "own",
        shape=found.shape,
        shards=found.shards,
        chunks=found.chunks,
        dtype=dtype,
        fill_value=float("nan"),
        compressors=None,
    )
    own[:] = values
    ours, theirs = out / "patches.zarr" / "c", tmp_path / "own" / "c"
    written = sorted(path.name for path in theirs.iterdir())
    assert written == ["0", "1", "3"] == sorted(path.name for path in ours.iterdir())
    for shard in written:
        file = Path(shard, "0", "0", "0")
        assert (ours / file).read_bytes() == (theirs / file).read_bytes()
