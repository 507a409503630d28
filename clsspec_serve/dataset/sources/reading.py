"""What reads the pictures of a place."""

from __future__ import annotations

from clsspec_serve.dataset.sources.files import FileReader
from clsspec_serve.dataset.sources.source import Place, Reader
from clsspec_serve.dataset.sources.tables import TableReader
from clsspec_serve.dataset.sources.tars import TarReader
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.videos.extra import require_video_extra
from clsspec_serve.images import DEFAULT_MAX_PIXELS


def open_reader(place: Place, max_pixels: int = DEFAULT_MAX_PIXELS) -> Reader:
    """The reader of a place; raises `UsageError` for an address of no known kind.

    `max_pixels`: of pictures that are decoded when they are read.
    """
    tree = open_tree(place.root)
    if place.kind == "videos":
        require_video_extra()
        from clsspec_serve.dataset.sources.videos import VideoReader

        return VideoReader(tree, max_pixels)
    if place.kind == "tables":
        return TableReader(tree, place.column)
    return TarReader(tree) if place.kind == "tars" else FileReader(tree)
