"""Small videos whose frames are known, and what is asked of a decoder for them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from clsspec_serve.dataset.sources.source import Unreadable
from clsspec_serve.dataset.sources.videos import VideoReader, Videos
from clsspec_serve.dataset.trees.local import LocalTree
from clsspec_serve.dataset.videos.opening import Video
from clsspec_serve.images import DEFAULT_MAX_PIXELS

H264 = {"codec": "libx264", "pixel_format": "yuv420p", "g": "10", "bf": "3"}
"""Ten frames from one key frame to the next, of which most are decoded after later ones."""
FRAMES = 40
KINDS = {
    "B-frames.mp4": H264,
    "B-frames.mkv": H264,
    "B-frames.ts": H264,
    # Frames before a key frame are made from it, too.
    "open-groups.mp4": H264 | {"x264-params": "open-gop=1"},
    "open-groups.ts": H264 | {"x264-params": "open-gop=1"},
    "open-groups-hevc.mp4": {
        "codec": "libx265",
        "pixel_format": "yuv420p",
        "x265-params": "keyint=10:open-gop=1:log-level=none",
    },
    # No picture is a key frame, after the first one.
    "refreshed.ts": H264 | {"bf": "0", "intra-refresh": "1"},
    # What has no times.
    "a.avi": {"codec": "mpeg4", "pixel_format": "yuv420p", "g": "10", "bf": "2"},
    "h264.avi": H264,
    "a.mpg": {"codec": "mpeg2video", "pixel_format": "yuv420p", "g": "10", "bf": "2"},
    "a.webm": {"codec": "libvpx-vp9", "pixel_format": "yuv420p", "g": "10"},
    "every-one-a-key-frame.mkv": {},
}


def picture(index: int, height: int = 28, width: int = 42) -> NDArray[np.uint8]:
    """The frame of a number, `(height, width, 3)` RGB: one pattern moves, two stay."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    moving = (across * 5 + down * 3 + index * 11) % 256
    return np.stack([moving, across * 6 % 256, down * 9 % 256], -1).astype(np.uint8)


def clip(
    file: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    codec: str = "ffv1",
    pixel_format: str = "bgr0",
    rate: Fraction | int = 10,
    times: Sequence[int] | None = None,
    colours: tuple[int, int] | None = None,
    turned: Sequence[Any] = (),
    container: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A video of these frames, lossless unless told otherwise.

    `times`: of the frames, in units of `1 / rate`; one after the other unless given. `colours`: the
    colour space and range that the frames are in, and say so; FFmpeg's numbers. `turned`: as
    PyAV's `set_display_rotation` takes it. `options`: of the codec.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", options=container or {}) as output:
        stream = cast("VideoStream", output.add_stream(codec, rate=Fraction(rate)))
        stream.options = dict(options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixel_format
        if colours:
            context = stream.codec_context
            context.colorspace, context.color_range = colours
        if turned:
            stream.set_display_rotation(*turned)
        for index, pixels in enumerate(frames):
            frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            if colours:
                frame = frame.reformat(
                    format=pixel_format, dst_colorspace=colours[0], dst_color_range=colours[1]
                )
            frame.pts = index if times is None else times[index]
            frame.time_base = 1 / Fraction(rate)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file


def numbered(file: Path, count: int, **options: Any) -> Path:
    """A video of the first `count` of the frames that `picture` gives."""
    return clip(file, [picture(index) for index in range(count)], **options)


def source(file: Path, fps: float | None = None) -> Videos:
    """One file of a folder."""
    tree = LocalTree(file.parent)
    return Videos(tree, [tree.entry(file.name)], fps)


def names(file: Path, fps: float | None = None) -> list[str]:
    """The ids of a file's frames, without the file's name."""
    return [item.id.removeprefix(file.name) for item in source(file, fps).items()]


def reader(file: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> VideoReader:
    """For one file of a folder."""
    return VideoReader(LocalTree(file.parent), max_pixels)


def all_pixels(file: Path, fps: float | None = None) -> list[NDArray[np.uint8]]:
    """The frames of a file."""
    own = reader(file)
    return [own.read(item) for item in source(file, fps).items()]


def outcomes(own: VideoReader, file: Path, order: Sequence[int] | None = None) -> list[bytes | str]:
    """Each frame's pixels, or why there are none, read in an order, or one after the other."""
    items = [item for item in source(file).items() if item.problem is None]
    found: dict[int, bytes | str] = {}
    for index in range(len(items)) if order is None else order:
        try:
            found[index] = own.read(items[index]).tobytes()
        except Unreadable as error:
            found[index] = str(error)
    return [found[index] for index in sorted(found)]


def packets(file: Path) -> list[Packet[VideoStream]]:
    """Those of the first video stream, in the order of the file."""
    with av.open(str(file), "r") as container:
        return [each for each in container.demux(container.streams.video[0]) if each.size]


def damage(file: Path, packet: int) -> None:
    """Change some of the bytes of a packet, which are found by how they begin."""
    content, part = bytearray(file.read_bytes()), bytes(packets(file)[packet])
    start = content.index(part[:60]) + len(part) // 3
    for at in range(start, start + 20):
        content[at] ^= 0x5A
    file.write_bytes(content)


def orders(count: int) -> dict[str, list[int]]:
    """Ways to ask for frames."""
    shuffled = list(range(count))
    random.Random(0).shuffle(shuffled)
    every = [*range(0, count, 7), *(each for each in range(count) if each % 7)]
    return {"backwards": [*reversed(range(count))], "shuffled": shuffled, "by steps": every}


@dataclass
class Work:
    """What was done with videos: frames that came out of decoders, jumps, and openings."""

    decoded: int = 0
    sought: int = 0
    opened: int = 0


@contextmanager
def counted() -> Iterator[Work]:
    """What is done with videos within the block."""
    work = Work()
    decode, seek, prepare = Video.decode, Video.seek, Video._prepare

    def decoding(video: Video, packet: Packet[VideoStream]) -> list[VideoFrame]:
        found = decode(video, packet)
        work.decoded += len(found)
        return found

    def seeking(video: Video, time: int) -> None:
        work.sought += 1
        seek(video, time)

    def preparing(video: Video, max_pixels: int) -> None:
        work.opened += 1
        prepare(video, max_pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Video, "decode", decoding)
        patch.setattr(Video, "seek", seeking)
        patch.setattr(Video, "_prepare", preparing)
        yield work
