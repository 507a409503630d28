"""Maps of one grid: an array of all pictures, Zarr v3, in which each shard is a file of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.sinks.sink import Written
from clsspec_serve.dataset.trees.tree import Tree, reading
from clsspec_serve.manifest import File

_METADATA = "zarr.json"
_ABSENT = np.iinfo(np.uint64).max
"""Where a chunk begins that is not there, and its length."""


def array_path(name: str) -> str:
    """The folder of an array."""
    return f"{name}.zarr"


def index_bytes(shard_size: int) -> int:
    """Of a shard's index in its file: where each chunk begins, its length, and a checksum."""
    return 16 * shard_size + 4


def metadata_path(name: str) -> str:
    """Where an array says what it is."""
    return f"{array_path(name)}/{_METADATA}"


def write_metadata(tree: Tree, layout: Layout, shards: int, shard_size: int) -> None:
    """Say how large the arrays are, `shards` times `shard_size` pictures, where they do not."""
    for name, each in layout.maps.items():
        shape, dtype = each.shape, each.dtype
        store = MemoryStore()
        zarr.create_array(
            store,
            shape=(shards * shard_size, *shape),
            shards=(shard_size, *shape),
            chunks=(1, *shape),
            dtype=dtype,
            fill_value=0 if dtype == "int8" else float("nan"),
            compressors=None,  # of features nothing is saved that is worth the time
            dimension_names=("picture", "y", "x", "channel"),
        )
        text = store._store_dict[_METADATA].to_bytes()
        path = metadata_path(name)
        with reading(f"{tree.name}/{path}"):
            written = tree.exists(path) and tree.read(path) == text
        if not written:
            tree.write(path, text)


class Maps:
    """`NAME.zarr/c/SHARD/0/0/0`: the maps `(h, w, D)` of a shard's pictures, each a chunk.

    Pictures that failed have no chunk, and are NaN when they are read, or 0 where a byte is kept of
    each value. The files are those that zarr would write from an array of the whole shard, which
    does not have to be in memory.
    """

    def __init__(self, folder: Path, shard: int, shard_size: int, layout: Layout) -> None:
        self._shard, self._count = shard, 0
        self._files: dict[str, _ShardFile] = {}
        for name, each in layout.maps.items():
            self._files[name] = _ShardFile(folder / f"{name}.shard", shard_size, each.dtype)

    def add(self, row: Row) -> None:
        """See `Sink`."""
        for name, value in row.maps.items():
            self._files[name].write(self._count, value)
        self._count += 1

    def finish(self) -> Mapping[str, Written]:
        """See `Sink`."""
        written = {
            f"{array_path(name)}/c/{self._shard}/0/0/0": file.finish()
            for name, file in self._files.items()
        }
        return {path: file for path, file in written.items() if file is not None}

    def close(self) -> None:
        """See `Sink`."""
        for file in self._files.values():
            file.close()


class _ShardFile:
    """A file of Zarr's `sharding_indexed` codec: chunks as they come, then the index of them.

    https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
    """

    def __init__(self, path: Path, chunks: int, dtype: str) -> None:
        self._path, self._dtype = path, np.dtype(dtype).newbyteorder("<")
        self._stream = path.open("wb", buffering=0)
        self._digest, self._size = hashlib.sha256(), 0
        self._index = np.full((chunks, 2), _ABSENT, "<u8")

    def write(self, chunk: int, values: NDArray[Any]) -> None:
        """The chunk of that number."""
        content = np.ascontiguousarray(values, self._dtype).data.cast("B")
        self._index[chunk] = self._size, len(content)
        self._append(content)

    def finish(self) -> Written | None:
        """The whole file, or None without a chunk."""
        empty = not self._size
        index = self._index.tobytes()
        self._append(index)
        self._append(crc32c(index).to_bytes(4, "little"))
        self.close()
        about = File(sha256=self._digest.hexdigest(), size=self._size)
        return None if empty else Written(self._path, about)

    def close(self) -> None:
        """Of a shard that is given up, too."""
        self._stream.close()

    def _append(self, content: memoryview | bytes) -> None:
        left = memoryview(content)
        self._digest.update(left)
        self._size += len(left)
        while left:
            left = left[self._stream.write(left) :]
