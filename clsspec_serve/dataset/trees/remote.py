"""A folder of an object store, through fsspec."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from clsspec_serve.dataset.trees.tree import SCRATCH, Entry, no_file, writing_to
from clsspec_serve.errors import UsageError, one_line


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
            raise no_file(path)
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
        with tempfile.TemporaryDirectory(prefix=SCRATCH) as folder:
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
