"""Whether a run's files are those that its shards have recorded, and all of its pictures there."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.sinks.maps import array_path, metadata_path
from clsspec_serve.dataset.sinks.table import FOLDER
from clsspec_serve.dataset.trees.tree import Tree, reading
from clsspec_serve.dataset.vectors import vectors_path, wrong_vectors
from clsspec_serve.errors import DatasetError, one_line, os_reason
from clsspec_serve.manifest import File

_PIECE = 1 << 24


@dataclass(frozen=True)
class Report:
    """What a run has: shards in all and done, pictures of those, files; and what is wrong."""

    shards: int
    done: int
    pictures: int
    failed: int
    files: int
    problems: tuple[str, ...]


def verify_files(run: Run, records: Mapping[int, Record]) -> Report:
    """Read every file of these shards, which are those that are done."""
    known = run.state.known
    problems = [problem for record in records.values() for problem in _problems(run, record)]
    problems += filter(None, (_wrong(run.tree, path, file) for path, file in known.items()))
    problems += _wrong_metadata(run)
    if not problems:
        problems += wrong_vectors(run, records)
    with reading(run.tree.name):
        arrays = sum(run.tree.exists(vectors_path(name)) for name in run.state.vectors)
    others = arrays + len(run.state.maps) + len(known)
    return Report(
        shards=run.state.shards,
        done=len(records),
        pictures=sum(record.pictures for record in records.values()),
        failed=sum(record.failed for record in records.values()),
        files=sum(len(record.files) for record in records.values()) + others,
        problems=tuple(problems),
    )


def _wrong_metadata(run: Run) -> Iterator[str]:
    """What the arrays say of themselves, and should not."""
    asked = run.state.asked
    for name, each in run.state.maps.items():
        shape = each.shape
        path = metadata_path(name)
        try:
            array = zarr.open_array(f"{run.tree.address}/{array_path(name)}", mode="r")
        except (OSError, ValueError, LookupError, TypeError) as error:
            yield f"{path}: cannot be read: {one_line(error)}"
            continue
        expected = (shape, (asked.shard_size, *shape), (1, *shape), np.dtype(each.dtype))
        found = (array.shape[1:], array.shards, array.chunks, array.dtype)
        # A run that was killed while it grew has said so before.
        if found != expected or array.shape[0] < run.state.shards * asked.shard_size:
            yield f"{path}: describes another array than {run.state.shards} shards of {expected[1]}"


def _problems(run: Run, record: Record) -> Iterator[str]:
    for path, expected in record.files.items():
        problem = _wrong(run.tree, path, expected)
        if problem is not None:
            yield problem
        elif path.startswith(f"{FOLDER}/"):
            yield from _wrong_rows(run, record, path)


def _wrong(tree: Tree, path: str, expected: File) -> str | None:
    """What a file has other than it should have."""
    try:
        size, digest = _described(tree, path)
    except OSError as error:
        return f"{path}: cannot be read: {os_reason(error)}"
    if size != expected.size:
        return f"{path}: has {size} bytes, recorded are {expected.size}"
    return f"{path}: was changed: its sha256 is another one" if digest != expected.sha256 else None


def _wrong_rows(run: Run, record: Record, path: str) -> Iterator[str]:
    """The table against the listing."""
    columns = ["row", "id", "error"]
    columns += ["sha256", "duplicate_of"] * run.state.asked.dedupe
    try:
        table = pq.read_table(io.BytesIO(run.tree.read(path)), columns=columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        yield f"{path}: is no table of rows: {one_line(error)}"
        return
    items = run.items(record.shard)
    first = record.shard * run.state.asked.shard_size
    rows, ids, errors, *contents = (table.column(name).to_pylist() for name in columns)
    if ids != [item.id for item in items] or rows != [*range(first, first + len(items))]:
        yield f"{path}: has other pictures than the listing"
    if contents:
        with suppress(DatasetError):  # a file that is told of by itself
            found = run.contents(record.shard)
            expected = [(each.sha256 and each.sha256.hex(), each.duplicate_of) for each in found]
            if [*zip(*contents, strict=True)] != expected or record.duplicates != sum(
                each.duplicate_of is not None for each in found
            ):
                yield f"{path}: has other duplicates than were found"
    if len(items) != record.pictures or record.failed != sum(each is not None for each in errors):
        yield f"{path}: has other numbers than its record"


def _described(tree: Tree, path: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with tree.open(path) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()
