"""Pictures in a column of Parquet tables: bytes, paths, or both, as Hugging Face writes them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.sources.source import (
    Place,
    Unreadable,
    text_of,
    unchanged,
    version_of,
)
from clsspec_serve.dataset.trees.tree import Entry, Tree
from clsspec_serve.errors import DatasetError, one_line, os_reason

_CHANGED = "is in a table that was changed after it had been listed"
_Part = TypeVar("_Part")

USUAL = ("image", "img", "picture", "photo", "jpg", "bytes", "path", "file", "file_name")
"""Names of columns that are looked for, in this order."""
_GROUPS = 4
"""Row groups that are kept."""


class Tables:
    """Rows of Parquet files; an id is the file's path, `#`, and the row, from 0.

    `column` holds bytes, or texts, which are paths below the tree, or both in a struct `{bytes,
    path}`. A file that is no Parquet, or lacks the column, has a row of its own that says so.
    """

    def __init__(self, tree: Tree, entries: Sequence[Entry], column: str | None) -> None:
        self._tree, self._entries, self._column = tree, entries, column

    @property
    def place(self) -> Place:
        """See `Source`."""
        return Place(kind="tables", root=self._tree.address, column=self._column)

    def items(self) -> Iterator[Item]:
        """See `Source`."""
        for entry in self._entries:
            version = version_of(entry)
            name = text_of(entry.path)
            try:
                with self._tree.open(entry.path) as stream:
                    rows = sum(_Table(stream, self._column).lengths)
            except OSError as error:
                problem = f"cannot be read: {os_reason(error)}"
            except (pa.ArrowException, ValueError, DatasetError) as error:
                problem = one_line(error)
            else:
                for row in range(rows):
                    yield Item(f"{name}#{row}", entry.path, row, version=version)
                continue
            yield Item(name, entry.path, version=version, problem=problem)


class TableReader:
    """Reads rows of the tables of a tree, which have to be those that were listed."""

    threads = None

    def __init__(self, tree: Tree, column: str | None) -> None:
        self._tree, self._column = tree, column
        self._groups: OrderedDict[tuple[str, int], list[Any]] = OrderedDict()
        self._lengths: dict[str, list[int]] = {}
        self._lock = Lock()

    def read(self, item: Item) -> bytes:
        """See `Reader`."""
        try:
            value = self._value(item)
            if isinstance(value, dict):
                value = value.get("path") if value.get("bytes") is None else value["bytes"]
            if isinstance(value, str):
                return self._tree.read(value)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Unreadable(f"cannot be read: {one_line(error)}") from error
        if value is None:
            raise Unreadable("the table has nothing there")
        content: bytes = value
        return content

    def _value(self, item: Item) -> Any:
        with self._lock:
            if item.file not in self._lengths:
                self._lengths = {item.file: self._part(item, lambda table: table.lengths)}
            group, row = _place(item.position, self._lengths[item.file])
            key = (item.file, group)
            if key not in self._groups:
                self._groups[key] = self._part(item, lambda table: table.values(group))
                if len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            return self._groups[key][row].as_py()

    def _part(self, item: Item, take: Callable[[_Table], _Part]) -> _Part:
        """Of an item's table, as it was listed."""
        with (
            unchanged(self._tree, item.file, item.version, _CHANGED),
            self._tree.open(item.file) as stream,
        ):
            return take(_Table(stream, self._column))


def _place(row: int, lengths: Sequence[int]) -> tuple[int, int]:
    """Which row group has a row, and where in it."""
    for group, length in enumerate(lengths):
        if row < length:
            return group, row
        row -= length
    raise Unreadable("the table has no such row")


class _Table:
    """One file, and the column of it that has the pictures; raises `DatasetError` for none."""

    def __init__(self, stream: BinaryIO, column: str | None) -> None:
        self._file = file = pq.ParquetFile(stream)
        schema = file.schema_arrow
        usual = [name for name in ((column,) if column else USUAL) if name in schema.names]
        if not usual:
            accepted = column or f"one of {', '.join(USUAL)}, or another one that --column names"
            raise DatasetError(f"has the columns {', '.join(schema.names)}; wanted is {accepted}")
        self._column = usual[0]
        kind = schema.field(self._column).type
        if not _is_picture(kind):
            raise DatasetError(
                f"has {kind} in the column {self._column}; accepted are bytes, paths, or a struct "
                "of both"
            )
        groups = file.metadata.num_row_groups
        self.lengths = [file.metadata.row_group(group).num_rows for group in range(groups)]

    def values(self, group: int) -> Any:
        """The column of a row group."""
        return self._file.read_row_group(group, columns=[self._column]).column(0)


def _is_picture(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        return bool({"bytes", "path"} & names) and all(
            _is_plain(field.type) for field in kind if field.name in ("bytes", "path")
        )
    return _is_plain(kind)


def _is_plain(kind: pa.DataType) -> bool:
    tests = (
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view),
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    )
    return any(test(kind) for test in tests)
