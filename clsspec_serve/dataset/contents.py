"""What is known of pictures' bytes: their sha256, and which picture before has the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DIGEST = 32
"""Bytes of a sha256."""
_SCHEMA = pa.schema([("sha256", pa.binary(DIGEST)), ("duplicate_of", pa.int64())])

Digests = NDArray[np.bytes_]
"""Of dtype `S32`; empty where the bytes could not be read."""


class Content(NamedTuple):
    """Of a picture: the sha256 of its bytes, and the row of the first one that has the same.

    None where the bytes could not be read, and where it is the first one itself.
    """

    sha256: bytes | None = None
    duplicate_of: int | None = None


UNKNOWN = Content()


def first_rows(digests: Digests, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each picture the row of the first one with the same bytes, which may be its own.

    `rows`: of the pictures, ascending.
    """
    _, first, groups = np.unique(digests, return_index=True, return_inverse=True)
    return np.where(digests == b"", rows, rows[first[groups]])


def write_contents(
    path: Path, digests: Digests, first: NDArray[np.int64], rows: NDArray[np.int64], size: int
) -> None:
    """Keep them as Parquet, a row group for each shard of `size` pictures.

    `first`, `rows`: see `first_rows`.
    """
    # pyarrow takes some names for addresses.
    with path.open("wb") as stream, pq.ParquetWriter(stream, _SCHEMA) as writer:
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            # numpy leaves zeros at the end out.
            values = [bytes(each).ljust(DIGEST, b"\0") if each else None for each in digests[part]]
            originals = pa.array(first[part], pa.int64(), mask=first[part] == rows[part])
            writer.write_table(pa.table([pa.array(values, pa.binary(DIGEST)), originals], _SCHEMA))


def read_shard(stream: Any, index: int) -> list[Content]:
    """The contents of one shard of a file, from 0, in order."""
    table = pq.ParquetFile(stream).read_row_group(index)
    columns = (table.column(name).to_pylist() for name in Content._fields)
    return [Content(*values) for values in zip(*columns, strict=True)]


def read_digests(stream: Any) -> Digests:
    """Those of all pictures of a file."""
    found = bytearray()
    for batch in pq.ParquetFile(stream).iter_batches(columns=["sha256"]):
        found += batch.column(0).fill_null(bytes(DIGEST)).buffers()[1]
    return np.frombuffer(found, f"S{DIGEST}")
