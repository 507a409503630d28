"""A decoder on its way from one place of a video on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from heapq import heappop, heappush
from itertools import islice

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
    """The frames of packets, in the order in which they are shown.

    `packets`: those that are not decoded so far; they begin with a key frame, or with the file.
    """

    def __init__(self, video: Video, packets: Iterator[Packet[VideoStream]]) -> None:
        self._video, self.packets = video, packets
        self._frames = self._sound()
        self._next: tuple[int, VideoFrame] | None = None
        self._passed: int | None = None
        self._sent: int | None = None
        self._keys: list[int] = []

    def leads_to(self, time: int) -> bool:
        """Whether a frame is still to come, and no key frame much nearer to it is."""
        if self._passed is None or self._sent is None or time <= self._passed:
            return False
        key = self._video.key_before(time)
        return key is None or (key - self._sent) * self._video.time_base <= _NEAR

    def frame(self, time: int) -> VideoFrame | None:
        """The frame of a time that `leads_to` accepts, at first of any; None where there is none.

        Raises `Damaged`, `Later` and `OSError`, after which there are no frames any more.
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

    def next_key(self, time: int) -> int | None:
        """Once there are no frames any more, the key frame where to begin anew, if there is one.

        The last one until a time, or else the next one; but after the one that these began with.
        """
        keys = self._keys.copy()
        if not any(key <= time for key in keys[1:]):
            rest = (packet.pts for packet in self.packets if packet.is_keyframe)
            with suppress(VideoError):
                keys += [key for key in islice(rest, 1) if key is not None]
        later = [key for key in keys if not self._keys or key > self._keys[0]]
        return max((key for key in later if key <= time), default=min(later, default=None))

    def _sound(self) -> Iterator[tuple[int, VideoFrame]]:
        """Each with its time, once all are there that it may be made from."""
        ready: deque[VideoFrame] = deque()
        # They come in the order in which they are shown, whatever their times say.
        times: list[int] = []
        spare = 0 if self._video.timed else self._video.reordering
        # By a frame's time the last one that is decoded before it.
        made_from: dict[int, int] = {}
        awaited: deque[int] = deque()
        try:
            for packet in self.packets:
                if packet.is_corrupt:
                    raise Damaged
                if packet.pts is not None:
                    self._sent = packet.pts if self._sent is None else max(self._sent, packet.pts)
                    made_from[packet.pts] = self._sent
                    if packet.is_keyframe:
                        self._keys.append(packet.pts)
                for frame in self._video.decode(packet):
                    if frame.is_corrupt:
                        raise Damaged
                    if frame.pts is not None:
                        ready.append(frame)
                        heappush(times, frame.pts)
                        awaited.append(made_from.pop(frame.pts, frame.pts))
                        while len(ready) > spare and awaited[0] <= frame.pts:
                            awaited.popleft()
                            yield heappop(times), ready.popleft()
        except VideoError as error:
            raise Damaged from error
        while ready:
            yield heappop(times), ready.popleft()
