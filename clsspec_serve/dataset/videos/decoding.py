"""A decoder on its way from one place of a video on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from clsspec_serve.dataset.videos.opening import Video, VideoError

_NEAR = 1
"""Seconds that are sooner decoded than passed over."""


class Damaged(VideoError):
    """The frame, or one that it may be made from, is damaged or does not come."""

    def __init__(self) -> None:
        super().__init__("is damaged, or made from a frame that is")


class Later(Exception):
    """What is decoded from there begins after the frame."""


class Decoding:
    """The frames of these packets, in the order of their times.

    `key`: the time of the key frame that they begin with, None at the beginning of the file.
    """

    def __init__(
        self, video: Video, packets: Iterable[Packet[VideoStream]], key: int | None
    ) -> None:
        self._video, self.key = video, key
        self._frames = self._sound(packets)
        self._next: tuple[int, VideoFrame] | None = None
        self._passed: int | None = None
        self._sent = key

    def leads_to(self, time: int) -> bool:
        """Whether a frame is still to come, and no key frame much nearer to it is."""
        if self._passed is None or time <= self._passed:
            return False
        key = self._video.key_before(time) if self._video.timed else None
        if key is None or self._sent is None:
            return True
        return (key - self._sent) * self._video.time_base <= _NEAR

    def frame(self, time: int) -> VideoFrame | None:
        """The frame of a time that `leads_to` accepts; None where there is none.

        Raises `Damaged`, `Later` and `OSError`, after which it cannot be used any more.
        """
        while True:
            if self._next is None:
                self._next = next(self._frames, None)
            if self._next is None:
                raise Damaged
            shown, frame = self._next
            if shown > time:
                if self._passed is None:
                    raise Later
                return None
            self._passed, self._next = shown, None
            if shown == time:
                return frame

    def _sound(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[tuple[int, VideoFrame]]:
        """Each with its time, when those that may be made from the same ones have come, too."""
        ready: deque[VideoFrame] = deque()
        # Frames come in the order in which they are shown, whatever their times say.
        times: list[int] = []
        try:
            for packet in packets:
                if packet.is_corrupt:
                    raise Damaged
                if packet.pts is not None:
                    self._sent = packet.pts if self._sent is None else max(self._sent, packet.pts)
                for frame in self._video.decode(packet):
                    if frame.is_corrupt:
                        raise Damaged
                    if frame.pts is not None:
                        ready.append(frame)
                        heappush(times, frame.pts)
                while len(ready) > self._video.reordering:
                    yield heappop(times), ready.popleft()
        except VideoError as error:
            raise Damaged from error
        while ready:
            yield heappop(times), ready.popleft()
