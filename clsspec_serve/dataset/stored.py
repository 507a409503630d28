"""What a finished shard has stored, read back."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pyarrow.parquet as pq
import zarr
from numpy.typing import NDArray

from clsspec_serve.dataset.contents import UNKNOWN, Content
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.rows import Failure, Row
from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.sinks.maps import array_path
from clsspec_serve.dataset.sinks.samples import member_name, samples_path
from clsspec_serve.dataset.sinks.table import table_path


class Stored:
    """A shard. Raises `OSError`, `KeyError` and pyarrow's errors for files that are not whole."""

    def __init__(self, run: Run, shard: int) -> None:
        self._run, self._shard = run, shard
        self._first = shard * run.state.asked.shard_size
        self._table = pq.read_table(io.BytesIO(run.tree.read(table_path(shard))))

    def vectors(self, name: str) -> NDArray[np.floating]:
        """A column of vectors `(pictures, D)`, NaN where there is none."""
        column = self._table.column(name).combine_chunks()
        width = self._run.state.vectors[name]
        found = np.full((len(column), width), np.nan, self._run.state.asked.dtype)
        found[column.is_valid().to_numpy(zero_copy_only=False)] = (
            column.drop_null().flatten().to_numpy().reshape(-1, width)
        )
        return found

    def row(self, index: int, item: Item) -> Row:
        """Its picture number `index`, without the geometry; `item` as it was listed."""
        columns = self._table.slice(index, 1).to_pylist()[0]
        content = UNKNOWN
        if self._run.state.asked.dedupe:
            sha256 = columns["sha256"] and bytes.fromhex(columns["sha256"])
            content = Content(sha256, columns["duplicate_of"])
        if columns["error"] is not None:
            failure = Failure(columns["kind"], columns["error"])
            return Row(item, failure=failure, content=content)
        if content.duplicate_of is not None:
            return Row(item, content=content)
        state, row = self._run.state, self._first + index
        return Row(
            item,
            vectors={name: self.vectors(name)[index] for name in state.vectors},
            maps={name: self._map(name, row) for name in state.maps},
            files=self._files(row) if state.files else {},
            content=content,
        )

    def _map(self, name: str, row: int) -> NDArray[np.floating]:
        array = zarr.open_array(f"{self._run.tree.address}/{array_path(name)}", mode="r")
        return np.asarray(array[row])

    def _files(self, row: int) -> dict[str, bytes]:
        names = {member_name(row, suffix): suffix for suffix in self._run.state.files.values()}
        found: dict[str, bytes] = {}
        with (
            self._run.tree.open(samples_path(self._shard)) as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            for member in archive:
                if member.name in names:
                    content = archive.extractfile(member)
                    assert content is not None  # what is named so is a file
                    found[names[member.name]] = content.read()
        return found
