"""Folders, on this machine or in an object store, in which files appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from clsspec_serve.errors import (
    DatasetError,
    OutputError,
    UsageError,
    one_line,
    os_reason,
    reason_of,
)

_SCRATCH = ".clsspec-"
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


def open_tree(location: str) -> Tree:
    """The folder at a path, or at an address such as `s3://bucket/folder`; raises `UsageError`."""
    return RemoteTree(location) if "://" in location else LocalTree(Path(location))


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
            if each.name.startswith(_SCRATCH):
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
            raise _no_file(path)
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
        for left in self._root.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with writing_to(self.name):
            self._root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self._root))
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
            raise _no_file(path)
        return self._root / path


class RemoteTree:
    """A folder of an object store, through fsspec. An object is whole as soon as it can be seen."""

    def __init__(self, address: str) -> None:
        self.name = self.address = address.rstrip("/")
        try:
            self._files, self._root = _found(self.address)
        except Exception as error:  # of whatever package has this kind of store
            raise UsageError(f"{address}: {one_line(error)}") from error

    def walk(self, below: str = "") -> Iterator[Entry]:
        with _store():
            found = self._files.find(self._path(below), detail=True)
        for path in sorted(found):
            yield self._entry(path.removeprefix(f"{self._root}/"), found[path])

    def entry(self, path: str) -> Entry:
        info = self._info(path)
        if info["type"] != "file":
            raise _no_file(path)
        return self._entry(path, info)

    def exists(self, path: str) -> bool:
        # fsspec's own takes a store that does not answer for an empty one.
        try:
            self._info(path)
        except FileNotFoundError:
            return False
        return True

    def read(self, path: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:  # no range says that
            return b""
        end = None if length is None else start + length
        with _store():
            content: bytes = self._files.cat_file(self._path(path), start=start or None, end=end)
        return content

    def open(self, path: str) -> BinaryIO:
        with _store():
            stream = self._files.open(self._path(path), "rb")
        return cast("BinaryIO", _Stream(stream))

    def free(self) -> int | None:
        return None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        # Object stores have no locks; two runs at once write the same bytes.
        yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=_SCRATCH) as folder:
            yield Path(folder)

    def place(self, file: Path, path: str) -> None:
        with writing_to(f"{self.name}/{path}"), _store():
            self._files.put_file(str(file), self._path(path))

    def write(self, path: str, content: bytes) -> None:
        with writing_to(f"{self.name}/{path}"), _store():
            self._files.pipe_file(self._path(path), content)

    def _info(self, path: str) -> dict[str, Any]:
        with _store():
            info: dict[str, Any] = self._files.info(self._path(path))
        return info

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    @staticmethod
    def _entry(path: str, info: dict[str, Any]) -> Entry:
        version = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("updated")
        return Entry(path, int(info["size"]), str(version or "").strip('"'))


class _Stream(io.BufferedIOBase):
    """A file of a store, of which each piece is asked for when it is read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        with _store():
            content: bytes = self._stream.read(size)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        self._stream.close()
        super().close()


def _found(address: str) -> tuple[Any, str]:
    """The store of an address, and the path there."""
    from fsspec.core import url_to_fs

    found: tuple[Any, str]
    try:
        # What others write there has to be seen.
        found = url_to_fs(address, use_listings_cache=False)
    except TypeError:  # some stores, such as sftp, hand options on to what does not know them
        found = url_to_fs(address)
    return found


@contextmanager
def _store() -> Iterator[None]:
    """Let whatever a store's own package raises be an `OSError`."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(one_line(error)) from error


def _entry(path: str, status: os.stat_result) -> Entry:
    return Entry(path, status.st_size, str(status.st_mtime_ns))


def _no_file(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


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
