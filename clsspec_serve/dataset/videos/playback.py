"""Single frames of a video by their times, decoded forwards as far as that is sensible.

What a frame looks like, or that it is damaged, must not depend on which ones were asked for before.
Without damage it does not, as decoders give the same pixels from any key frame. Once one has met
damage, nothing is to be trusted until the next key frame: a new one begins at the key frame before,
and whatever comes after the damage is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import chain

from av.video.frame import VideoFrame

from clsspec_serve.dataset.videos.decoding import Damaged, Decoding, Later
from clsspec_serve.dataset.videos.opening import Video, VideoError

_BEFORE = (0, 2, 8, 32)
"""Seconds before a frame to look for a key frame that it can be decoded from."""
_ABSENT = "has no such frame"


class Playback:
    """The frames of a file, which `opened` opens.

    Raises `VideoError` for a frame that cannot be had, and `OSError`.
    """

    def __init__(self, opened: Callable[[], Video]) -> None:
        self._opened = opened
        self._video = opened()
        self._decoding: Decoding | None = None
        # From the first time on, until before the other.
        self._damaged = 0, 0

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
        first, end = self._damaged
        if first <= time < end:
            raise Damaged
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
        with suppress(Damaged):
            return self._taken(self._begun(seconds, time), time)
        key = None
        while True:
            # Damage stays in a decoder, whatever it is told to forget.
            self._renew()
            decoding = self._begun(seconds, time, key)
            with suppress(Damaged):
                return self._taken(decoding, time)
            key = self._key_after_damage(decoding, time)

    def _taken(self, decoding: Decoding, time: int) -> VideoFrame:
        frame = decoding.frame(time)
        self._decoding = decoding
        if frame is None:
            raise VideoError(_ABSENT)
        return frame

    def _begun(self, seconds: float | None, time: int, first: int | None = None) -> Decoding:
        """`first`: no key frame before this will do; raises `Later` where another one is not."""
        if seconds is None:
            self._renew()
            if first is None:
                return Decoding(self._video, self._video.packets())
        else:
            self._seek(time - round(seconds / self._video.time_base) if first is None else first)
        packets = self._video.packets()
        for packet in packets:
            if packet.is_keyframe and packet.pts is not None:
                if packet.pts > time:
                    break
                if first is None or packet.pts >= first:
                    return Decoding(self._video, chain([packet], packets))
        raise Later

    def _key_after_damage(self, decoding: Decoding, time: int) -> int:
        """The time of another key frame; raises `Damaged` where that comes too late."""
        key = decoding.next_key(time)
        if key is None or key > time:
            self._damaged = time, sys.maxsize if key is None else key
            raise Damaged
        return key

    def _seek(self, time: int) -> None:
        if not self._video.timed:
            raise Later
        try:
            self._video.seek(time)
        except VideoError as error:  # before the beginning, or without an index
            raise Later from error

    def _renew(self) -> None:
        self._video.close()
        self._video = self._opened()
