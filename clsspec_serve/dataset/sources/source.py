"""What every source of pictures is to the rest, and what all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Literal, Protocol

from clsspec_serve.dataset.listing import Item
from clsspec_serve.errors import ImageError
from clsspec_serve.schema import Strict

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".avif",
        ".jp2",
        ".ppm",
        ".pgm",
        ".pnm",
    ]
)
"""Of files that are taken for pictures; what they are is read from their bytes."""


class Place(Strict):
    """Where the bytes of listed pictures are, for any process that is to read them.

    `kind`: what files the pictures are in. `root`: the address of the tree. `column`: of tables.
    """

    kind: Literal["files", "tars", "tables"]
    root: str
    column: str | None = None


class Source(Protocol):
    """A data set's pictures."""

    @property
    def place(self) -> Place:
        """Where they are; `open_reader` reads there."""
        ...

    def items(self) -> Iterator[Item]:
        """All of them, in an order that depends on the data set alone; raises `DatasetError`."""
        ...


class Reader(Protocol):
    """Reads listed pictures."""

    def read(self, item: Item) -> bytes:
        """The encoded bytes of one; raises `Unreadable`. Several threads may read at once."""
        ...


class Unreadable(ImageError):
    """The source does not give the picture's bytes."""


class Changed(Unreadable):
    """The file is not the one that was listed."""


def is_picture(path: str) -> bool:
    """Whether a file's name is that of a picture."""
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def text_of(path: str) -> str:
    """A file's name as UTF-8, which it need not be."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
