"""`NAME.npy`: the vectors of all pictures of a run as one array, beside the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.sinks.table import table_path
from clsspec_serve.dataset.stored import Stored
from clsspec_serve.dataset.trees.tree import Tree, reading, writing_to
from clsspec_serve.errors import one_line


def vectors_path(name: str) -> str:
    """Where the array of an answer is."""
    return f"{name}.npy"


def has_vectors(tree: Tree, names: Iterable[str]) -> bool:
    """Whether a run's arrays have been asked for before."""
    with reading(tree.name):
        return any(tree.exists(vectors_path(name)) for name in names)


def write_vectors(run: Run, last: int) -> None:
    """Put `NAME.npy` in place for each vector, `(rows, D)` of the run's dtype, by `row`.

    All shards have to be done; `last` is how many pictures the last one has. Rows of no picture,
    and of one that failed, are NaN. An array that has this length is left, as what is done never
    changes. Raises `OutputError`, and `DatasetError` for a table that cannot be read.
    """
    state = run.state
    size = state.asked.shard_size
    rows = (state.shards - 1) * size + last
    for name, width in state.vectors.items():
        path = vectors_path(name)
        if _has_shape(run, path, (rows, width)):
            continue
        with run.tree.scratch() as folder, writing_to(f"{run.tree.name}/{path}"):
            file = folder / "vectors.npy"
            array = npy.open_memmap(file, "w+", np.dtype(state.asked.dtype), (rows, width))
            for shard in range(state.shards):
                with reading(f"{run.tree.name}/{table_path(shard)}"):
                    found = Stored(run, shard).vectors(name)
                part = array[shard * size : (shard + 1) * size]
                part[: len(found)] = found
                part[len(found) :] = np.nan
            array.flush()
            run.tree.place(file, path)


def wrong_vectors(run: Run, shards: Iterable[int]) -> Iterator[str]:
    """What the arrays that there are have other than the tables of these shards, in words.

    While shards are still to come, an array may end before some that are done.
    """
    chosen = list(shards)
    growing = len(chosen) < run.state.shards
    for name in run.state.vectors:
        path = vectors_path(name)
        try:
            if not run.tree.exists(path):
                continue
            with run.tree.open(path) as stream:
                rows = _header(stream).shape[0]
                there = [
                    shard
                    for shard in chosen
                    if not growing or shard * run.state.asked.shard_size < rows
                ]
                wrong = [shard for shard in there if not _same(run, name, shard, stream)]
        except (OSError, ValueError) as error:
            yield f"{path}: cannot be read: {one_line(error)}"
            continue
        if wrong:
            yield f"{path}: has other vectors than the table of shard {wrong[0]}"


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def _header(stream: BinaryIO) -> _Header:
    """What a `.npy` says of itself; raises `ValueError` where it is none."""
    stream.seek(0)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("accepted is version 1.0 of the format")
    shape, _, dtype = npy.read_array_header_1_0(stream)
    return _Header(shape, dtype)


def _has_shape(run: Run, path: str, shape: tuple[int, int]) -> bool:
    try:
        with run.tree.open(path) as stream:
            return _header(stream) == (shape, np.dtype(run.state.asked.dtype))
    except (OSError, ValueError):
        return False


def _same(run: Run, name: str, shard: int, stream: BinaryIO) -> bool:
    """Whether a shard's vectors stand in an array."""
    found = Stored(run, shard).vectors(name)
    header = _header(stream)
    if header.dtype != found.dtype or header.shape[1:] != found.shape[1:]:
        return False
    stream.seek(stream.tell() + shard * run.state.asked.shard_size * found[0].nbytes)
    there = np.frombuffer(stream.read(found.nbytes), found.dtype)
    return there.size == found.size and np.array_equal(there, found.ravel(), equal_nan=True)
