"""The table of a shard's rows: ids, failures, geometry and vectors, as Parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clsspec_serve.bundle import describe
from clsspec_serve.dataset.layout import Layout
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.shards import stem
from clsspec_serve.dataset.sinks.sink import Written
from clsspec_serve.geometry import Geometry

FOLDER = "rows"


def table_path(shard: int) -> str:
    """Where the table of a shard is."""
    return f"{FOLDER}/{stem(shard)}.parquet"


class Table:
    """`rows/000000.parquet`, a row for each picture, those that failed too.

    `row`: the picture's place in every array. `id`; `error` and `kind` where it gave nothing;
    `height`, `width` of the picture and its `geometry`, which `Geometry.from_dict` reads as JSON;
    `sha256` of its bytes and `duplicate_of`, the row with the answers, where these are asked for;
    and a column for each vector, a list of fixed length, null where there is none.
    """

    def __init__(self, folder: Path, shard: int, first_row: int, layout: Layout) -> None:
        self._path = folder / "rows.parquet"
        self._name = table_path(shard)
        self._first, self._layout = first_row, layout
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """See `Sink`; of the row only what stands in the table is kept."""
        self._rows.append(replace(row, maps={}, files={}))

    def finish(self) -> Mapping[str, Written]:
        """See `Sink`."""
        rows = self._rows
        failures = [row.failure for row in rows]
        sizes = [row.geometry.image if row.geometry else (None, None) for row in rows]
        geometries = [row.geometry and _text(row.geometry) for row in rows]
        columns: dict[str, Any] = {
            "row": pa.array(range(self._first, self._first + len(rows)), pa.int64()),
            "id": pa.array([row.item.id for row in rows], pa.string()),
            "error": pa.array([each and each.reason for each in failures], pa.string()),
            "kind": pa.array([each and each.kind for each in failures], pa.string()),
            "height": pa.array([height for height, _ in sizes], pa.int32()),
            "width": pa.array([width for _, width in sizes], pa.int32()),
            "geometry": pa.array(geometries, pa.string()),
        }
        if self._layout.contents:
            digests = [row.content.sha256 and row.content.sha256.hex() for row in rows]
            columns["sha256"] = pa.array(digests, pa.string())
            originals = [row.content.duplicate_of for row in rows]
            columns["duplicate_of"] = pa.array(originals, pa.int64())
        for name, length in self._layout.vectors.items():
            columns[name] = self._vectors(name, length)
        # A file that pyarrow has opened stays open when the disk is full.
        with self._path.open("wb") as stream:
            pq.write_table(pa.table(columns), stream, compression="zstd")
        return {self._name: Written(self._path, describe(self._path))}

    def close(self) -> None:
        """See `Sink`; nothing is open."""

    def _vectors(self, name: str, length: int) -> pa.Array:
        found = [row.vectors.get(name) for row in self._rows]
        values = np.zeros((len(found), length), self._layout.dtype)
        for index, vector in enumerate(found):
            if vector is not None:
                values[index] = vector
        lacking = pa.array([vector is None for vector in found])
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), length, mask=lacking)


@lru_cache(maxsize=64)
def _text(geometry: Geometry) -> str:
    """Most pictures of a data set have few sizes."""
    return json.dumps(geometry.to_dict(), separators=(",", ":"))
