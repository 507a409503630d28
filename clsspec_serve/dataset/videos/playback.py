"""Single frames of a video by their times, decoded forwards as far as that is sensible.

What a frame looks like, or that it is damaged, must not depend on which ones were asked for before.
Without damage it does not, as decoders give the same pixels from any key frame and with any number
of threads. Once one has met damage, nothing is to be trusted until the next key frame. Then a
single thread begins at the key frame before, and whatever comes after the damage is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from clsspec_serve.dataset.videos.decoding import Damaged, Decoding, Later
from clsspec_serve.dataset.videos.opening import Video, VideoError

_ALL, _ONE = 0, 1
"""Threads of a decoder: one for each core, or only one."""
_BEFORE = (0, 2, 8, 32)
"""Seconds before a frame to look for a key frame that it can be decoded from."""
_ABSENT = "has no such frame"


class Playback:
    """The frames of a file; `opened` opens it, for a decoder of so many threads.

    Raises `VideoError` for a frame that cannot be had, and `OSError`.
    """

    def __init__(self, opened: Callable[[int], Video]) -> None:
        self._opened, self._threads = opened, _ALL
        self._video = opened(_ALL)
        self._decoding: Decoding | None = None
        self._damage: tuple[int | None, int] | None = None

    def close(self) -> None:
        """Let the file go."""
        self._video.close()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames, by the header."""
        return self._video.size

    def frame(self, time: int) -> VideoFrame:
        """The one that is shown from this time on."""
        decoding, self._decoding = self._decoding, None
        if decoding is not None and decoding.leads_to(time):
            with suppress(Damaged):
                return self._taken(decoding, time)
        # Some formats allow to begin at key frames from which not everything can be decoded.
        for seconds in (*_BEFORE, None):
            with suppress(Later):
                return self._from(seconds, time)
        raise VideoError(_ABSENT)

    def _from(self, seconds: float | None, time: int) -> VideoFrame:
        """From a key frame so long before it, or None: from the beginning; raises `Later`."""
        decoding = self._begun(seconds, time, _ALL)
        if self._damage and self._damage[0] == decoding.key and self._damage[1] <= time:
            raise Damaged
        with suppress(Damaged):
            return self._taken(decoding, time)
        decoding = self._begun(seconds, time, _ONE)
        try:
            return self._taken(decoding, time)
        except Damaged:
            self._damage = decoding.key, time
            raise

    def _taken(self, decoding: Decoding, time: int) -> VideoFrame:
        frame = decoding.frame(time)
        self._decoding = decoding
        if frame is None:
            raise VideoError(_ABSENT)
        return frame

    def _begun(self, seconds: float | None, time: int, threads: int) -> Decoding:
        if seconds is None or threads != self._threads:
            self._video.close()
            self._video, self._threads = self._opened(threads), threads
        if seconds is None:
            return Decoding(self._video, self._video.packets(), None)
        if not self._video.timed:
            raise Later
        try:
            self._video.seek(time - round(seconds / self._video.time_base))
        except VideoError as error:  # before the beginning, or without an index
            raise Later from error
        packets = self._video.packets()
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None and packet.size:
                if packet.pts > time:
                    break
                rest = _not_before(packet.pts, packets)
                return Decoding(self._video, chain([packet], rest), packet.pts)
        raise Later


def _not_before(key: int, packets: Iterable[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """Without frames that are shown before a key frame, and made from others before it, too."""
    return (each for each in packets if each.pts is None or each.pts >= key)
