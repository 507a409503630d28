"""What every sink is to a shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from clsspec_serve.dataset.rows import Row


class Sink(Protocol):
    """Keeps rows of one shard, in order, in a scratch folder."""

    def add(self, row: Row) -> None:
        """The next row."""
        ...

    def finish(self) -> Mapping[str, Path]:
        """The files, by the path that they are to have in the run's folder."""
        ...
