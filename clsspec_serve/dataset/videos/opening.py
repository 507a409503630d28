"""A video file, opened: the packets of its first video stream, and a decoder for them.

FFmpeg knows hundreds of formats, and some of them name other files and addresses, which it opens.
So only those are opened whose bytes are all there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import BinaryIO, Self

import av
from av.codec.context import Flags
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from clsspec_serve.errors import one_line
from clsspec_serve.images import DEFAULT_MAX_PIXELS

_FORMATS = "mov,matroska,avi,mpeg,mpegts"
_PIECE = 1 << 18
"""Bytes that are read at once."""


class VideoError(Exception):
    """The file is no video, or is damaged, or a frame cannot be had; in one line."""


class Bytes:
    """A file as FFmpeg reads it, which may take a failure for the end of the file.

    `error`: why the last read failed. `read_since`: whether bytes have come since that was unset.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        self.read_since = False

    def read(self, size: int) -> bytes:
        """As any file's; nothing where it fails."""
        self.read_since = True
        try:
            return self._stream.read(size)
        except OSError as error:
            self.error = error
            return b""

    def seek(self, offset: int, whence: int = 0) -> int:
        """As any file's; -1 where it fails, which is FFmpeg's word for it."""
        try:
            return self._stream.seek(offset, whence)
        except OSError as error:
            self.error = error
        except ValueError:  # before the beginning
            pass
        return -1

    def tell(self) -> int:
        """As any file's."""
        return self._stream.tell()


class Video:
    """The first video stream of a file that stays open; `close` it. Raises `VideoError`.

    `max_pixels`: of frames; FFmpeg does not begin with frames that are much larger.
    """

    def __init__(self, content: Bytes, max_pixels: int) -> None:
        self._content = content
        content.seek(0)
        with self._told():
            self._container = av.open(
                content,
                "r",
                # Finding out about streams decodes, too, and says no sizes beyond this.
                options={"max_pixels": str(max(max_pixels, DEFAULT_MAX_PIXELS))},
                container_options={"format_whitelist": _FORMATS},
                metadata_errors="replace",
                buffer_size=_PIECE,
            )
        try:
            with self._told():
                self._prepare(max_pixels)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        self._container.close()

    @property
    def time_base(self) -> Fraction:
        """Seconds of a time of one."""
        base = self._stream.time_base
        if not base:
            raise VideoError("its frames have no times")
        return base

    @property
    def size(self) -> tuple[int, int]:
        """(H, W), by the header; zeros where it says nothing."""
        context = self._stream.codec_context
        return context.height, context.width

    @property
    def fields(self) -> bool:
        """Whether a packet may be half a frame, as broadcasts have it."""
        interlaced = self._stream.codec_context.field_order > 1
        return interlaced and self._container.format.name in ("mpeg", "mpegts")

    @property
    def reordering(self) -> int:
        """How many frames, at most, are decoded before one that is shown earlier."""
        return self._stream.codec_context.reorder_depth

    @property
    def timed(self) -> bool:
        """Whether packets have the times of their frames from wherever they are read.

        In MPEG program streams some have, in AVIs none. What FFmpeg makes up for the others depends
        on those before; of AVIs it is right but in these formats.
        """
        codec, container = self._stream.codec_context.name, self._container.format.name
        return container != "mpeg" and (container != "avi" or codec not in ("h264", "hevc"))

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """From where the file is; an empty one at the end."""
        packets = self._container.demux(self._stream)
        while True:
            with self._told():
                packet = next(packets, None)
            if packet is None:
                return
            yield packet

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """The frames that are ready now; an empty packet ends the decoder."""
        with self._told():
            return self._stream.codec_context.decode(packet if packet.size else None)

    def key_before(self, time: int) -> int | None:
        """When the last key frame before a time is decoded, where the file's index tells."""
        if not self.timed:
            return None
        entries = self._stream.index_entries
        index = entries.search_timestamp(time)
        return None if index < 0 else entries[index].timestamp

    def indexed_end(self) -> int:
        """The byte after the last one of all that the file's index names, as far as it is known."""
        return max((each.pos + each.size for each in self._stream.index_entries), default=0)

    def seek(self, time: int) -> None:
        """Go to a key frame that is not after `time`, or not far; the decoder begins anew."""
        with self._told():
            self._container.seek(time, stream=self._stream)

    def _prepare(self, max_pixels: int) -> None:
        videos = [
            stream
            for stream in self._container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if not videos:
            raise VideoError("it has no video stream")
        self._stream = videos[0]
        for stream in self._container.streams:
            if stream is not self._stream:
                stream.discard = Discard.all
        context = self._stream.codec_context
        if context is None:
            raise VideoError("its format is not decoded here")
        # With more of them FFmpeg finds damage at some times and not at others.
        context.thread_count = 1
        context.flags |= Flags.bitexact
        # Decoders count whole blocks, of up to 64 pixels.
        context.options = {"max_pixels": str(2 * max_pixels + (1 << 16))}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Let whatever FFmpeg and PyAV raise be a `VideoError`, and failures to read `OSError`s."""
        try:
            yield
        except VideoError:
            raise
        except av.error.FFmpegError as error:
            if self._content.error is None:
                raise VideoError(error.strerror or one_line(error)) from error
        except Exception as error:  # hostile data breaks PyAV anywhere
            if self._content.error is None:
                raise VideoError(one_line(error)) from error
        if self._content.error is not None:
            raise self._content.error
