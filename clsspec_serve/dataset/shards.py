"""A shard's record: what it wrote, which is the last thing that it writes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pydantic import Field

from clsspec_serve.dataset.trees.tree import Tree, reading
from clsspec_serve.manifest import File
from clsspec_serve.schema import Count, Strict

FOLDER = "shards"
_READERS = 16
"""Records that are read at a time, as an object store takes its time for each."""


class Record(Strict):
    """A finished shard: its number, how many pictures it has, and its files by path.

    `failures`: how many of the pictures gave nothing, by kind. `duplicates`: how many have the
    bytes of another one, where that is looked for.
    """

    shard: Count
    pictures: Count
    failures: dict[str, Count] = Field(default_factory=dict)
    duplicates: Count = 0
    files: dict[str, File]

    @property
    def failed(self) -> int:
        """How many of the pictures gave nothing."""
        return sum(self.failures.values())


def stem(shard: int) -> str:
    """What a shard's files are called; the names are in the order of the shards up to a million."""
    return f"{shard:06}"


def record_path(shard: int) -> str:
    """Where the record of a shard is."""
    return f"{FOLDER}/{stem(shard)}.json"


def write_record(tree: Tree, record: Record) -> None:
    """From here on the shard is done."""
    tree.write(record_path(record.shard), record.model_dump_json(indent=1).encode() + b"\n")


def read_records(tree: Tree) -> dict[int, Record]:
    """Of all shards that are done, by number; raises `DatasetError`."""
    with reading(f"{tree.name}/{FOLDER}"):
        if not tree.exists(FOLDER):
            return {}
        paths = [entry.path for entry in tree.walk(FOLDER) if entry.path.endswith(".json")]
    with ThreadPoolExecutor(_READERS) as readers:
        found = list(readers.map(partial(_read, tree), paths))
    return {record.shard: record for record in found}


def _read(tree: Tree, path: str) -> Record:
    with reading(f"{tree.name}/{path}"):
        return Record.model_validate_json(tree.read(path))
