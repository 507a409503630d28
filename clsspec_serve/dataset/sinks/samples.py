"""Files of pictures, such as masks, depth and maps of many grids: WebDataset, a tar each shard."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from clsspec_serve.bundle import describe
from clsspec_serve.dataset.rows import Row
from clsspec_serve.dataset.shards import stem
from clsspec_serve.dataset.sinks.sink import Written

FOLDER = "samples"


def samples_path(shard: int) -> str:
    """Where the tar of a shard is."""
    return f"{FOLDER}/{stem(shard)}.tar"


def member_name(row: int, suffix: str) -> str:
    """What a file of a picture is called in it."""
    return f"{row:012}{suffix}"


class Samples:
    """`samples/000000.tar`: of each picture its files, named for its row, and `.json`.

    That has the `id`, and the `geometry`. Pictures that failed are not in it.
    """

    def __init__(self, folder: Path, shard: int, first_row: int) -> None:
        self._path = folder / "samples.tar"
        self._name = samples_path(shard)
        self._row = first_row
        self._archive = tarfile.open(self._path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, row: Row) -> None:
        """See `Sink`."""
        if row.geometry is not None:
            about = {"id": row.item.id, "geometry": row.geometry.to_dict()}
            self._write(".json", json.dumps(about).encode())
            for suffix, content in row.files.items():
                self._write(suffix, content)
        self._row += 1

    def finish(self) -> Mapping[str, Written]:
        """See `Sink`."""
        self._archive.close()
        return {self._name: Written(self._path, describe(self._path))}

    def close(self) -> None:
        """See `Sink`."""
        with suppress(OSError):
            self._archive.close()

    def _write(self, suffix: str, content: bytes) -> None:
        # Without times and owners: the same pictures give the same bytes.
        member = tarfile.TarInfo(member_name(self._row, suffix))
        member.size = len(content)
        self._archive.addfile(member, io.BytesIO(content))
