"""Pictures in a column of Parquet tables: bytes, paths, or both, as Hugging Face writes them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.sources.source import Changed, Place, Unreadable, text_of
from clsspec_serve.dataset.trees import Entry, Tree
from clsspec_serve.errors import DatasetError, one_line

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
            version = f"{entry.size}:{entry.version}"
            name = text_of(entry.path)
            try:
                with self._tree.open(entry.path) as stream:
                    rows = sum(_Table(stream, self._column).lengths)
            except (pa.ArrowException, OSError, DatasetError) as error:
                yield Item(name, entry.path, version=version, problem=one_line(error))
                continue
            for row in range(rows):
                yield Item(f"{name}#{row}", entry.path, row, version=version)


class TableReader:
    """Reads rows of the tables of a tree, which have to be those that were listed."""

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
        except (pa.ArrowException, OSError) as error:
            raise Unreadable(f"cannot be read: {one_line(error)}") from error
        if value is None:
            raise Unreadable("the table has nothing there")
        content: bytes = value
        return content

    def _value(self, item: Item) -> Any:
        with self._lock:
            if item.file not in self._lengths:
                entry = self._tree.entry(item.file)
                if f"{entry.size}:{entry.version}" != item.version:
                    raise Changed("is in a table that was changed after it had been listed")
                with self._tree.open(item.file) as stream:
                    self._lengths = {item.file: _Table(stream, self._column).lengths}
            group, row = _place(item.position, self._lengths[item.file])
            key = (item.file, group)
            if key not in self._groups:
                with self._tree.open(item.file) as stream:
                    self._groups[key] = _Table(stream, self._column).values(group)
                if len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            return self._groups[key][row].as_py()


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
