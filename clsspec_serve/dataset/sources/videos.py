"""Video files, whose pictures are their frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from threading import Lock
from typing import BinaryIO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.sources.source import (
    Changed,
    Place,
    Unreadable,
    text_of,
    unchanged,
    version_of,
)
from clsspec_serve.dataset.trees.tree import Entry, Tree
from clsspec_serve.dataset.videos.opening import Bytes, Video, VideoError
from clsspec_serve.dataset.videos.pixels import Converter
from clsspec_serve.dataset.videos.playback import Playback
from clsspec_serve.dataset.videos.times import Times, decoded_times, packet_times
from clsspec_serve.dataset.videos.wholeness import stated_end
from clsspec_serve.errors import ImageTooLarge, os_reason
from clsspec_serve.images import DEFAULT_MAX_PIXELS

_CHANGED = "is in a video that was changed after it had been listed"


class Videos:
    """Frames of the first video stream of each file, in the order in which they are shown.

    `fps`: see `Times.at`; None are all frames. An id is the file's path and a media fragment,
    `FILE.mp4#t=12.500`: seconds after the file's first frame. A file that is no video, or is
    truncated or damaged, has a row of its own that says so, after the frames that could be listed.
    """

    def __init__(self, tree: Tree, entries: Sequence[Entry], fps: float | None) -> None:
        self._tree, self._entries = tree, entries
        # What was written, not the nearest binary fraction.
        self._fps = None if fps is None else Fraction(str(fps))

    @property
    def place(self) -> Place:
        """See `Source`."""
        return Place(kind="videos", root=self._tree.address)

    def items(self) -> Iterator[Item]:
        """See `Source`; a frame's `position` is its time in the stream's units."""
        for entry in self._entries:
            version, name = version_of(entry), text_of(entry.path)
            problem = None
            try:
                times, problem = self._times(entry)
                for time in times.at(self._fps):
                    fragment = f"{name}#t={times.seconds(time)}"
                    yield Item(fragment, entry.path, time, version=version)
            except VideoError as error:
                problem = f"is no whole video: {error}"
            except OSError as error:
                problem = f"cannot be read: {os_reason(error)}"
            if problem is not None:
                yield Item(name, entry.path, version=version, problem=problem)

    def _times(self, entry: Entry) -> tuple[Times, str | None]:
        """Those of a file, and what is wrong with it."""
        with self._tree.open(entry.path) as stream:
            end = stated_end(stream) or 0
            with Video(Bytes(stream), DEFAULT_MAX_PIXELS) as video:
                times = packet_times(video)
                end = max(end, video.indexed_end())
            if times is None:
                with Video(Bytes(stream), DEFAULT_MAX_PIXELS) as video:
                    times = decoded_times(video)
        problem = times.problem
        if end > entry.size:
            problem = f"it ends after {entry.size} of {end} bytes"
        return times, problem and f"is no whole video: {problem}"


class VideoReader:
    """Decodes frames of the videos of a tree, which have to be those that were listed.

    Neighbours take one decoding each when they are read one after the other. `max_pixels`: of a
    frame; larger ones are not decoded.
    """

    threads = 1

    def __init__(self, tree: Tree, max_pixels: int) -> None:
        self._tree, self._max_pixels = tree, max_pixels
        self._file: _File | None = None
        self._lock = Lock()

    def read(self, item: Item) -> NDArray[np.uint8]:
        """See `Reader`; the pixels of a frame, `(H, W, 3)` uint8, RGB, upright."""
        with self._lock:
            try:
                return self._frame(item)
            except VideoError as error:
                raise Unreadable(str(error)) from error
            except OSError as error:
                raise Unreadable(f"cannot be read: {os_reason(error)}") from error

    def close(self) -> None:
        """Let the file go that is open; the next frame opens its own."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _frame(self, item: Item) -> NDArray[np.uint8]:
        try:
            if self._file is None or not self._file.has(item):
                self.close()
                with unchanged(self._tree, item.file, item.version, _CHANGED):
                    self._file = _File(self._tree, item, self._max_pixels)
            return self._file.pixels(item.position)
        except (Changed, OSError):
            self.close()
            raise


class _File:
    """A video that is open. Raises `VideoError`, `OSError`, `Changed` and `ImageTooLarge`."""

    def __init__(self, tree: Tree, item: Item, max_pixels: int) -> None:
        self._tree, self._path, self._version = tree, item.file, item.version
        self._max_pixels = max_pixels
        self._converter = Converter()
        self._stream = tree.open(item.file)
        try:
            self._content = Bytes(self._stream)
            self._playback = Playback(partial(Video, self._content, max_pixels))
        except BaseException:
            self._stream.close()
            raise
        # Also where nobody has the reader any more.
        self.close = finalize(self, _close, self._playback, self._stream)

    def has(self, item: Item) -> bool:
        """Whether it is an item's, as that was listed."""
        return (self._path, self._version) == (item.file, item.version)

    def pixels(self, time: int) -> NDArray[np.uint8]:
        """Of the frame that is shown from a time on."""
        height, width = self._playback.size
        if height * width > self._max_pixels:
            raise ImageTooLarge(
                f"has {width}x{height} = {width * height} pixels; accepted are {self._max_pixels}"
            )
        self._content.read_since = False
        try:
            frame = self._playback.frame(time)
        finally:
            # Otherwise it is made from bytes that are known to be those that were listed.
            if self._content.read_since:
                with unchanged(self._tree, self._path, self._version, _CHANGED):
                    pass
        return self._converter.pixels(frame)


def _close(playback: Playback, stream: BinaryIO) -> None:
    playback.close()
    stream.close()
