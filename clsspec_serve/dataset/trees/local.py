"""A folder of this machine."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clsspec_serve.dataset.trees.tree import MISSING, SCRATCH, Entry, no_file, writing_to
from clsspec_serve.errors import OutputError


class LocalTree:
    """A folder of this machine. What was placed survives a power cut."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def name(self) -> str:
        return str(self._root)

    @property
    def address(self) -> str:
        return os.path.abspath(self._root)

    def walk(self, below: str = "") -> Iterator[Entry]:
        return self._walk(below, frozenset())

    def _walk(self, below: str, above: frozenset[str]) -> Iterator[Entry]:
        real = os.path.realpath(self._root / below)
        if real in above:  # a link to a folder that it is in
            return
        with os.scandir(real) as found:
            entries = sorted(found, key=lambda each: os.fsencode(each.name))
        for each in entries:
            path = f"{below}/{each.name}" if below else each.name
            if each.name.startswith(SCRATCH):
                continue
            try:
                status = each.stat()
            except OSError:  # a link to nothing
                yield Entry(path, MISSING, "")
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(path, above | {real})
            elif stat.S_ISREG(status.st_mode):
                yield _entry(path, status)

    def entry(self, path: str) -> Entry:
        status = os.stat(self._file(path))
        if not stat.S_ISREG(status.st_mode):
            raise no_file(path)
        return _entry(path, status)

    def exists(self, path: str) -> bool:
        return os.path.exists(self._root / path)

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        with self.open(path) as stream:
            stream.seek(start)
            return stream.read() if length is None else stream.read(length)

    def open(self, path: str) -> BinaryIO:
        return self._file(path).open("rb")

    def free(self) -> int | None:
        root = self._root.absolute()
        return shutil.disk_usage(next(each for each in (root, *root.parents) if each.exists())).free

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """See `Tree`; what processes that were killed have left behind is removed."""
        with writing_to(self.name):
            self._root.mkdir(parents=True, exist_ok=True)
            folder = os.open(self._root, os.O_RDONLY)
        try:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(f"another process is at work in {self.name}") from None
            except OSError:  # there are file systems without locks
                pass
            self._sweep()
            try:
                yield
            finally:
                self._sweep()
        finally:
            os.close(folder)

    def _sweep(self) -> None:
        for left in self._root.glob(f"{SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with writing_to(self.name):
            self._root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self._root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, file: Path, path: str) -> None:
        target = self._root / path
        with writing_to(f"{self.name}/{path}"):
            made = [each for each in target.parents if not each.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            _sync(file)
            file.replace(target)
            # The names, too, have to be on the disk.
            for folder in {target.parent, *(each.parent for each in made)}:
                _sync(folder)

    def write(self, path: str, content: bytes) -> None:
        with self.scratch() as folder, writing_to(f"{self.name}/{path}"):
            file = folder / "new"
            file.write_bytes(content)
            self.place(file, path)

    def _file(self, path: str) -> Path:
        if "\0" in path:  # of which Python makes a `ValueError`
            raise no_file(path)
        return self._root / path


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, str(status.st_mtime_ns))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems sync no folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)
