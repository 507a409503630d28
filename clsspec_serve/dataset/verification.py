"""Whether a run's files are those that its shards have recorded, and all of its pictures there."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.sinks.table import FOLDER
from clsspec_serve.dataset.trees.tree import Tree, reading
from clsspec_serve.dataset.vectors import vectors_path, wrong_vectors

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
    problems = [problem for record in records.values() for problem in _problems(run, record)]
    if not problems:
        problems += wrong_vectors(run, records)
    with reading(run.tree.name):
        arrays = sum(run.tree.exists(vectors_path(name)) for name in run.state.vectors)
    return Report(
        shards=run.state.shards,
        done=len(records),
        pictures=sum(record.pictures for record in records.values()),
        failed=sum(record.failed for record in records.values()),
        files=sum(len(record.files) for record in records.values()) + arrays,
        problems=tuple(problems),
    )


def _problems(run: Run, record: Record) -> Iterator[str]:
    for path, expected in record.files.items():
        try:
            size, digest = _described(run.tree, path)
        except OSError as error:
            yield f"{path}: cannot be read: {error.strerror or error}"
            continue
        if size != expected.size:
            yield f"{path}: has {size} bytes, recorded are {expected.size}"
        elif digest != expected.sha256:
            yield f"{path}: was changed: its sha256 is another one"
        elif path.startswith(f"{FOLDER}/"):
            yield from _wrong_rows(run, record, path)


def _wrong_rows(run: Run, record: Record, path: str) -> Iterator[str]:
    """The table against the listing."""
    columns = ["row", "id", "error"]
    try:
        table = pq.read_table(io.BytesIO(run.tree.read(path)), columns=columns)
    except (pa.ArrowException, KeyError) as error:
        yield f"{path}: is no table of rows: {error}"
        return
    items = run.items(record.shard)
    first = record.shard * run.state.asked.shard_size
    rows, ids, errors = (table.column(name).to_pylist() for name in columns)
    if ids != [item.id for item in items] or rows != [*range(first, first + len(items))]:
        yield f"{path}: has other pictures than the listing"
    if len(items) != record.pictures or record.failed != sum(each is not None for each in errors):
        yield f"{path}: has other numbers than its record"


def _described(tree: Tree, path: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with tree.open(path) as stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()
