"""Maps of one grid: an array of all pictures, Zarr v3, in which each shard is a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.trees.tree import Tree

_METADATA = "zarr.json"


def array_path(name: str) -> str:
    """The folder of an array."""
    return f"{name}.zarr"


def index_bytes(shard_size: int) -> int:
    """Of a shard's index in its file: where each chunk begins, its length, and a checksum."""
    return 16 * shard_size + 4


def write_metadata(tree: Tree, layout: Layout, shards: int, shard_size: int) -> None:
    """Say how large the arrays are: `shards` times `shard_size` pictures."""
    for name, shape in layout.maps.items():
        store = MemoryStore()
        _create(store, shape, layout, shards * shard_size, shard_size)
        text = store._store_dict[_METADATA].to_bytes()
        tree.write(f"{array_path(name)}/{_METADATA}", text)


class Maps:
    """`NAME.zarr/c/SHARD/0/0/0`: the maps `(h, w, D)` of a shard's pictures, each a chunk.

    Pictures that failed have no chunk, and are NaN when they are read.
    """

    def __init__(self, folder: Path, shard: int, shard_size: int, layout: Layout) -> None:
        self._folder, self._shard, self._layout = folder, shard, layout
        self._count = 0
        self._values = {
            name: np.full((shard_size, *shape), np.nan, layout.dtype)
            for name, shape in layout.maps.items()
        }

    def add(self, row: Row) -> None:
        """See `Sink`."""
        for name, value in row.maps.items():
            self._values[name][self._count] = value
        self._count += 1

    def finish(self) -> Mapping[str, Path]:
        """See `Sink`."""
        files = {}
        for name, values in self._values.items():
            folder = self._folder / array_path(name)
            array = _create(str(folder), values.shape[1:], self._layout, len(values), len(values))
            array[:] = values
            file = folder / "c" / "0" / "0" / "0" / "0"
            if file.exists():
                files[f"{array_path(name)}/c/{self._shard}/0/0/0"] = file
        return files


def _create(
    store: Any, shape: tuple[int, ...], layout: Layout, pictures: int, shard_size: int
) -> Any:
    return zarr.create_array(
        store,
        shape=(pictures, *shape),
        shards=(shard_size, *shape),
        chunks=(1, *shape),
        dtype=layout.dtype,
        fill_value=float("nan"),
        compressors=None,  # of features nothing is saved that is worth the time
        dimension_names=("picture", "y", "x", "channel"),
    )
