"""Which pictures a data set has, in order: listed once, kept as a table, and compared later."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

WHOLE = -1
"""The `position` of a picture that is a file of its own."""


class Item(NamedTuple):
    """One picture, and where its bytes are.

    `id`: its own, UTF-8. `file`: a path in the source's tree. `position`: in a tar the offset of
    its bytes, in a table its row, else `WHOLE`. `size`: its bytes; -1 where only reading tells.
    `version`: of the file, another one when that changes. `problem`: why there is nothing to read.
    """

    id: str
    file: str
    position: int = WHOLE
    size: int = -1
    version: str = ""
    problem: str | None = None


_SCHEMA = pa.schema(
    [
        *(("id", pa.string()), ("file", pa.binary()), ("position", pa.int64())),
        *(("size", pa.int64()), ("version", pa.string()), ("problem", pa.string())),
    ]
)


@dataclass(frozen=True)
class Listed:
    """How many pictures were listed, and the sha256 of everything that was said of them."""

    count: int
    sha256: str


def write_listing(items: Iterable[Item], path: Path, shard_size: int) -> Listed:
    """Keep a listing as Parquet, a row group for each shard."""
    digest, count, rest = hashlib.sha256(), 0, iter(items)
    # pyarrow takes some names for addresses.
    with path.open("wb") as stream, pq.ParquetWriter(stream, _SCHEMA) as writer:
        while chosen := list(islice(rest, shard_size)):
            for item in chosen:
                digest.update("\0".join(map(str, item)).encode("utf-8", "surrogateescape") + b"\n")
            count += len(chosen)
            writer.write_table(_table(chosen))
    return Listed(count, digest.hexdigest())


class Listing:
    """A listing that was kept, read shard by shard."""

    def __init__(self, stream: Any) -> None:
        self._file = pq.ParquetFile(stream)
        self.count: int = self._file.metadata.num_rows
        self.shards: int = self._file.metadata.num_row_groups if self.count else 0

    def shard(self, index: int) -> list[Item]:
        """The pictures of one shard, from 0, in order."""
        return _items(self._file.read_row_group(index))

    def __iter__(self) -> Iterator[Item]:
        for index in range(self.shards):
            yield from self.shard(index)


def difference(before: Iterable[Item], now: Iterable[Item]) -> str | None:
    """In what two listings differ, in words, with an example; None where they do not.

    Pictures of one id are told apart by their order.
    """
    old: dict[str, Item] = {}
    later: dict[str, deque[Item]] = {}
    for item in before:
        if item.id in old:
            later.setdefault(item.id, deque()).append(item)
        else:
            old[item.id] = item
    new: list[str] = []
    changed: list[str] = []
    for item in now:
        known = old.pop(item.id, None)
        if known is None:
            new.append(item.id)
            continue
        if known != item:
            changed.append(item.id)
        if rest := later.get(item.id):
            old[item.id] = rest.popleft()
    gone = [*old, *(item.id for rest in later.values() for item in rest)]
    counts = {"new": new, "changed": changed, "gone": gone}
    found = [f"{len(ids)} {word} ({ids[0]})" for word, ids in counts.items() if ids]
    return ", ".join(found) or None


def added(before: Iterable[Item], now: Iterable[Item]) -> Iterator[Item]:
    """The pictures of a listing whose ids another one does not have, or not as often."""
    known = Counter(item.id for item in before)
    for item in now:
        if known[item.id]:
            known[item.id] -= 1
        else:
            yield item


def _table(items: list[Item]) -> pa.Table:
    columns = dict(zip(Item._fields, zip(*items, strict=True), strict=True))
    # A file's name need not be UTF-8.
    columns["file"] = tuple(name.encode("utf-8", "surrogateescape") for name in columns["file"])
    return pa.table({name: list(values) for name, values in columns.items()}, schema=_SCHEMA)


def _items(table: pa.Table) -> list[Item]:
    columns = [table.column(name).to_pylist() for name in Item._fields]
    index = Item._fields.index("file")
    columns[index] = [name.decode("utf-8", "surrogateescape") for name in columns[index]]
    return [Item(*values) for values in zip(*columns, strict=True)]
