"""WebDataset: pictures that are members of tar files."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Self

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.sources.source import (
    Changed,
    Place,
    Unreadable,
    is_picture,
    text_of,
    unchanged,
    version_of,
)
from clsspec_serve.dataset.trees.tree import Entry, Tree
from clsspec_serve.errors import one_line, os_reason

_CHANGED = "is in a tar that was changed after it had been listed"
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_LONGEST = 1 << 20
"""Bytes of an extended header, which has names and comments."""


class Tars:
    """The pictures of uncompressed tar files; an id is the tar's path, a slash, the member's name.

    A tar that ends too soon, is damaged, or is none, has a row of its own that says so, after the
    members that could be listed.
    """

    def __init__(self, tree: Tree, entries: Sequence[Entry]) -> None:
        self._tree, self._entries = tree, entries

    @property
    def place(self) -> Place:
        """See `Source`."""
        return Place(kind="tars", root=self._tree.address)

    def items(self) -> Iterator[Item]:
        """See `Source`."""
        for entry in self._entries:
            version = version_of(entry)
            try:
                with self._tree.open(entry.path) as stream:
                    for member in _members(stream, entry.size):
                        if member.isfile() and is_picture(member.name):
                            yield _item(entry, member, version)
                continue
            except tarfile.TarError as error:
                problem = f"is no whole tar file: {one_line(error)}"
            except OSError as error:
                problem = f"cannot be read: {os_reason(error)}"
            yield Item(text_of(entry.path), entry.path, version=version, problem=problem)


class TarReader:
    """Reads members of the tars of a tree, which have to be those that were listed."""

    threads = None

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def read(self, item: Item) -> bytes:
        """See `Reader`."""
        try:
            with unchanged(self._tree, item.file, item.version, _CHANGED):
                content = self._tree.read(item.file, item.position, item.size)
        except OSError as error:
            raise Unreadable(f"cannot be read: {os_reason(error)}") from error
        if len(content) != item.size:
            raise Changed(_CHANGED)
        return content


def _item(entry: Entry, member: tarfile.TarInfo, version: str) -> Item:
    name = text_of(f"{entry.path}/{member.name}")
    left = max(entry.size - member.offset_data, 0)
    if member.issparse():
        problem = "is a sparse file, whose bytes are not in one piece"
    elif member.size < 0:
        problem = f"the tar says that it has {member.size} bytes"
    elif member.size > left:
        problem = f"the tar ends after {left} of {member.size} bytes"
    else:
        return Item(name, entry.path, member.offset_data, member.size, version)
    return Item(name, entry.path, version=version, problem=problem)


def _members(stream: BinaryIO, size: int) -> Iterator[tarfile.TarInfo]:
    """Every member of a tar of `size` bytes.

    Raises `tarfile.TarError` after the last one that could be had where the tar is not whole, and
    `OSError`.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep them all
                yield member
                # A size may lead anywhere, and back again.
                if not member.offset_data <= archive.offset <= size:
                    raise tarfile.ReadError("unexpected end of data")
            # tarfile ends in silence at any block that is no header.
            stream.seek(archive.offset)
            end = stream.read(tarfile.BLOCKSIZE)
            if len(end) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("unexpected end of data")
            if any(end):
                raise tarfile.ReadError(f"invalid header at byte {archive.offset}")
    except (OSError, tarfile.TarError):
        raise
    except Exception as error:  # tarfile does not foresee every header
        raise tarfile.ReadError(one_line(error)) from error


class _Member(tarfile.TarInfo):
    """A member whose headers may be read, as tarfile reads as much as they say at once."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and not 0 <= member.size <= _LONGEST:
            raise tarfile.HeaderError(f"a header has {member.size} bytes")
        return member
