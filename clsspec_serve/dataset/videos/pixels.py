"""A decoded frame → its RGB pixels, upright.

The frame's own colour space and range count. What says nothing of them is taken for BT.601 of
limited range, as FFmpeg does. More than 8 bits are rounded to 8; the curves of HDR are left as they
are, alpha is left out.
"""

from __future__ import annotations

from struct import unpack_from
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from clsspec_serve.dataset.videos.opening import VideoError
from clsspec_serve.errors import one_line

_FLAGS = (
    Interpolation.BILINEAR
    | Interpolation.FULL_CHR_H_INT
    # Without these two the pixels depend on the processor.
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
_THREADS = 4
"""The pixels do not depend on them."""
_QUARTERS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))
"""Display matrices of 0, 90, 180 and 270 degrees, against the clock."""


class Converter:
    """Converts frames of one video, one after the other."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._displays: dict[int, tuple[int, int, int, int]] = {}

    def pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """`(H, W, 3)` uint8, RGB, contiguous; raises `VideoError`."""
        try:
            rgb = self._reformatter.reformat(
                frame, format="rgb24", interpolation=_FLAGS, threads=_THREADS
            )
            pixels = np.asarray(rgb.to_ndarray(), np.uint8)
        except Exception as error:  # whatever a colour space leads to
            raise VideoError(f"its colours cannot be converted: {one_line(error)}") from error
        return upright(pixels, *self._display(frame))

    def _display(self, frame: VideoFrame) -> tuple[int, int, int, int]:
        # A frame that was looked at so closely lives until garbage is collected.
        turn = frame.rotation
        if turn not in self._displays:
            self._displays[turn] = _display(frame)
        return self._displays[turn]


def upright(pixels: NDArray[np.uint8], a: int, b: int, c: int, d: int) -> NDArray[np.uint8]:
    """Pixels as a display matrix shows them, as far as it turns by quarters and mirrors.

    The point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2.
    """
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.swapaxes(0, 1)
        across, down = c, b
    else:
        across, down = a, d
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _display(frame: VideoFrame) -> tuple[int, int, int, int]:
    """The four numbers of a frame's display matrix that turn and mirror."""
    try:
        matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know all that there may be beside it
        return _QUARTERS[round(frame.rotation / 90) % 4]
    if matrix is None:
        return _QUARTERS[0]
    a, b, _, c, d = unpack_from("=5i", bytes(matrix))
    return a, b, c, d
