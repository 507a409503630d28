"""What every folder is to the rest, and the errors of reading and writing there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from clsspec_serve.errors import DatasetError, OutputError, os_reason, reason_of

SCRATCH = ".clsspec-"
"""How the names of scratch folders begin."""
MISSING = -1
"""The size of a file that is named, and not there."""


class Entry(NamedTuple):
    """A file: its POSIX path below the tree, its size in bytes, and what changes when it does."""

    path: str
    size: int
    version: str


class Tree(Protocol):
    """A folder; paths are POSIX, relative to it. Reading raises `OSError`, writing `OutputError`.

    Several threads may use it at once.
    """

    @property
    def name(self) -> str:
        """The folder, as people write it."""
        ...

    @property
    def address(self) -> str:
        """The folder, as `open_tree` finds it from any working directory."""
        ...

    def walk(self, below: str = "") -> Iterator[Entry]:
        """Every file below a folder, in an order that depends on the names alone."""
        ...

    def entry(self, path: str) -> Entry:
        """One file; raises `FileNotFoundError`."""
        ...

    def exists(self, path: str) -> bool:
        """Whether there is a file, or a folder."""
        ...

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or some of them."""
        ...

    def open(self, path: str) -> BinaryIO:
        """A file to read here and there."""
        ...

    def free(self) -> int | None:
        """Bytes that fit, where that is known; raises `OSError`."""
        ...

    def claimed(self) -> AbstractContextManager[None]:
        """A context in which no other process has claimed the folder; raises `OutputError`."""
        ...

    def scratch(self) -> AbstractContextManager[Path]:
        """A context with an empty folder on this machine, for files that `place` takes."""
        ...

    def place(self, file: Path, path: str) -> None:
        """Give a file of the scratch folder its name here: whole, durable, in place of another."""
        ...

    def write(self, path: str, content: bytes) -> None:
        """Write a file of known content, as `place` does."""
        ...


def no_file(path: str) -> FileNotFoundError:
    """What is raised where there is no such file."""
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


@contextmanager
def writing_to(name: str) -> Iterator[None]:
    """Let the errors of the system be `OutputError`s that say where."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {name}: {os_reason(error)}") from error


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Let what cannot be had, or is not as it was written, be a `DatasetError` that says where."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DatasetError(f"{name} cannot be read: {reason_of(error)}") from error
