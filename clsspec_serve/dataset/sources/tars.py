"""WebDataset: pictures that are members of tar files."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.sources.source import (
    Changed,
    Place,
    Unreadable,
    is_picture,
    text_of,
)
from clsspec_serve.dataset.trees import Entry, Tree
from clsspec_serve.errors import one_line


class Tars:
    """The pictures of uncompressed tar files; an id is the tar's path, a slash, the member's name.

    A tar that ends too soon, or is none, has a row of its own that says so, after the members that
    could be listed.
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
            version = f"{entry.size}:{entry.version}"
            try:
                with (
                    self._tree.open(entry.path) as stream,
                    tarfile.open(fileobj=stream, mode="r:") as archive,
                ):
                    for member in archive:
                        if member.isfile() and is_picture(member.name):
                            name = text_of(f"{entry.path}/{member.name}")
                            place = (entry.path, member.offset_data, member.size)
                            yield Item(name, *place, version=version)
            except (tarfile.TarError, OSError) as error:
                problem = f"is no whole tar file: {one_line(error)}"
                yield Item(text_of(entry.path), entry.path, version=version, problem=problem)


class TarReader:
    """Reads members of the tars of a tree, which have to be those that were listed."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def read(self, item: Item) -> bytes:
        """See `Reader`."""
        try:
            content = self._tree.read(item.file, item.position, item.size)
            entry = self._tree.entry(item.file)
        except OSError as error:
            raise Unreadable(f"cannot be read: {error.strerror or one_line(error)}") from error
        if f"{entry.size}:{entry.version}" != item.version:
            raise Changed("is in a tar that was changed after it had been listed")
        if len(content) != item.size:
            raise Unreadable(f"the tar ends after {len(content)} of {item.size} bytes")
        return content
