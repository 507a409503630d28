"""What reads the pictures of a place."""

from __future__ import annotations

from clsspec_serve.dataset.sources.files import FileReader
from clsspec_serve.dataset.sources.source import Place, Reader
from clsspec_serve.dataset.sources.tables import TableReader
from clsspec_serve.dataset.sources.tars import TarReader
from clsspec_serve.dataset.trees.opening import open_tree


def open_reader(place: Place) -> Reader:
    """The reader of a place; raises `UsageError` for an address of no known kind."""
    tree = open_tree(place.root)
    if place.kind == "tables":
        return TableReader(tree, place.column)
    return TarReader(tree) if place.kind == "tars" else FileReader(tree)
