"""What every source of pictures is to the rest, and what all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.trees.tree import Entry, Tree
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
VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts"]
)
"""Of files that are taken for videos."""


class Place(Strict):
    """Where the bytes of listed pictures are, for any process that is to read them.

    `kind`: what files the pictures are in. `root`: the address of the tree. `column`: of tables.
    """

    kind: Literal["files", "tars", "tables", "videos"]
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


Raw = bytes | NDArray[np.uint8]
"""Of a picture: its encoded bytes, or its pixels, `(H, W, 3)` RGB."""


class Reader(Protocol):
    """Reads listed pictures."""

    @property
    def threads(self) -> int | None:
        """How many may read at once to any good, however many there are; None for all of them."""
        ...

    def read(self, item: Item) -> Raw:
        """The content of one; raises `ImageError`. Several threads may read at once."""
        ...


class Unreadable(ImageError):
    """The source does not give the picture's bytes."""


class Changed(Unreadable):
    """The file is not the one that was listed."""


def version_of(entry: Entry) -> str:
    """What changes when a file does."""
    return f"{entry.size}:{entry.version}"


@contextmanager
def unchanged(tree: Tree, file: str, version: str, words: str) -> Iterator[None]:
    """A context in which a file is read; raises `Changed` where it is not the one that was listed.

    Whatever came of reading it, even an error, then says nothing of that one.
    """
    try:
        yield
    finally:
        if version_of(tree.entry(file)) != version:
            raise Changed(words)


def is_picture(path: str) -> bool:
    """Whether a file's name is that of a picture."""
    return PurePosixPath(path).suffix.lower() in SUFFIXES


def is_video(path: str) -> bool:
    """Whether a file's name is that of a video."""
    return PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES


def text_of(path: str) -> str:
    """A file's name as UTF-8, which it need not be."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
