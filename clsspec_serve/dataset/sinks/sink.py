"""What every sink is to a shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from clsspec_serve.dataset.rows import Row
from clsspec_serve.manifest import File


class Written(NamedTuple):
    """A file in the scratch folder, its size and its hash."""

    path: Path
    about: File


class Sink(Protocol):
    """Keeps rows of one shard, in order, in a scratch folder."""

    def add(self, row: Row) -> None:
        """The next row."""
        ...

    def finish(self) -> Mapping[str, Written]:
        """The files, by the path that they are to have in the run's folder."""
        ...

    def close(self) -> None:
        """Let go of files that are open, when it has finished or is given up."""
        ...
