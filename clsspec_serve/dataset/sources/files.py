"""Pictures that are files of their own: a folder, those that a pattern fits, or a list of paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.sources.source import (
    Changed,
    Place,
    Unreadable,
    text_of,
    unchanged,
)
from clsspec_serve.dataset.trees.tree import MISSING, Entry, Tree
from clsspec_serve.errors import os_reason

_CHANGED = "was changed after it had been listed"

Walk = Callable[[], Iterator[Entry]]
"""What finds files, each time anew."""


class Files:
    """Files of a tree; their paths are their ids."""

    def __init__(self, tree: Tree, walk: Walk) -> None:
        self._tree, self._walk = tree, walk

    @property
    def place(self) -> Place:
        """See `Source`."""
        return Place(kind="files", root=self._tree.address)

    def items(self) -> Iterator[Item]:
        """See `Source`."""
        for entry in self._walk():
            problem = None if entry.size != MISSING else "there is no such file"
            yield Item(
                text_of(entry.path),
                entry.path,
                size=entry.size,
                version=entry.version,
                problem=problem,
            )


class FileReader:
    """Reads whole files of a tree, which have to be those that were listed."""

    threads = None

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def read(self, item: Item) -> bytes:
        """See `Reader`."""
        try:
            with unchanged(self._tree, item.file, f"{item.size}:{item.version}", _CHANGED):
                content = self._tree.read(item.file, 0, item.size)
        except OSError as error:
            raise Unreadable(f"cannot be read: {os_reason(error)}") from error
        if len(content) != item.size:
            raise Changed(_CHANGED)
        return content
