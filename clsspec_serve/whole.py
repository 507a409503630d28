"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clsspec_serve.errors import OutputError


def require_writable(path: Path) -> None:
    """Raise `OutputError` now where a file at `path` could not be written later."""
    existing = next(folder for folder in path.absolute().parents if os.path.exists(folder))
    reason = None
    if os.path.isdir(path):
        reason = errno.EISDIR
    elif not os.path.isdir(existing):
        reason = errno.ENOTDIR
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = errno.EACCES
    if reason is not None:
        raise OutputError(f"cannot write {path}: {os.strerror(reason)}")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file of known content; see `new_file`."""
    with new_file(path) as stream:
        stream.write(content)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A stream whose file takes the name `path` when the block succeeds; raises `OutputError`.

    After any error nothing is left behind and an existing file is as it was.
    """
    with _beside(path) as work:
        part = work / "new"
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)


@contextmanager
def new_folder(destination: Path, *, replace: bool = False) -> Iterator[Path]:
    """An empty folder that becomes `destination` when the block succeeds.

    Raises `OutputError` when `destination` exists (unless `replace`) or cannot be written; after
    any error nothing is left behind and an existing folder is as it was.
    """
    # Not Path's own methods, which raise for a name that is too long.
    if os.path.exists(destination) and not replace:
        raise OutputError(f"{destination} exists already; --force replaces it")
    with _beside(destination) as work:
        folder, old = work / "new", work / "old"
        folder.mkdir()
        yield folder
        if destination.exists():
            destination.rename(old)
        try:
            folder.rename(destination)
        except OSError:
            if old.exists():
                old.rename(destination)
            raise


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as `path`, which is gone in the end.

    Folders made on the way to `path` are removed again where they stay empty.
    """
    made = [folder for folder in path.absolute().parents if not os.path.exists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        for folder in made:
            try:
                folder.rmdir()
            except OSError:
                break
