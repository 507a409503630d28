"""When a video's frames are shown, and which of them are shown at so many moments of a second."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.dataset.videos.opening import Video, VideoError


@dataclass(frozen=True)
class Times:
    """Of a video's frames, in units of `base` seconds.

    `shown`: ascending, `(N,)` int64. `end`: when the last one is over. `problem`: why there may be
    frames that are not among them.
    """

    shown: NDArray[np.int64]
    end: int
    base: Fraction
    problem: str | None

    def at(self, fps: Fraction | None) -> list[int]:
        """The frames that are shown at any of the moments `k / fps` after the first one.

        A frame is shown from its time on, until the next one's; each is given once. None gives
        all of them.
        """
        shown = self.shown.tolist()
        if fps is None or not shown:
            return shown
        # A time is so many moments, in whole numbers.
        moments, unit = (self.base * fps).as_integer_ratio()
        first, chosen = shown[0], []
        for time, until in zip(shown, [*shown[1:], max(self.end, shown[-1] + 1)], strict=True):
            moment = -((first - time) * moments // unit)
            if moment * unit < (until - first) * moments:
                chosen.append(time)
        return chosen

    def seconds(self, time: int) -> str:
        """After the first frame, in thousandths: `12.500`."""
        thousandths = round((time - int(self.shown[0])) * self.base * 1000)
        return f"{thousandths // 1000}.{thousandths % 1000:03}"


def packet_times(video: Video) -> Times | None:
    """Those that the packets of a video have, which has just been opened; raises `OSError`.

    None where only decoding tells: a packet has no time, or may be half a frame.
    """
    shown, end, problem = array("q"), 0, None
    if video.fields:
        return None
    try:
        for packet in video.packets():
            if packet.size and packet.pts is None:
                return None
            if packet.size and packet.pts is not None:
                end = max(end, packet.pts + (packet.duration or 0))
                # What an edit has cut off is decoded, but not shown.
                if not packet.is_discard:
                    shown.append(packet.pts)
    except VideoError as error:
        problem = str(error)
    return _times(video, shown, end, problem)


def decoded_times(video: Video) -> Times:
    """The same by decoding all of it, one frame after the other."""
    shown, end, problem = array("q"), 0, None
    try:
        for packet in video.packets():
            for frame in video.decode(packet):
                if frame.pts is not None:
                    shown.append(frame.pts)
                    end = max(end, frame.pts + frame.duration)
    except VideoError as error:
        problem = str(error)
    return _times(video, shown, end, problem)


def _times(video: Video, shown: array[int], end: int, problem: str | None) -> Times:
    found = np.unique(np.asarray(shown, np.int64))
    if not len(found) and problem is None:
        problem = "it has no frames"
    return Times(found, end, video.time_base, problem)
