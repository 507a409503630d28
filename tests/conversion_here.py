"""The sha256 of converted noise, on a processor of which FFmpeg uses everything, or nothing.

python tests/conversion_here.py all|plain
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from clsspec_serve.dataset.videos.pixels import Converter


def library(name: str) -> ctypes.CDLL:
    """One that PyAV has loaded."""
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return ctypes.CDLL(next(path for path in mapped if Path(path).name.startswith(name)))


def main(processor: str) -> None:
    """Print it."""
    if processor == "plain":
        library("libavutil").av_force_cpu_flags(0)
    noise, digest = np.random.default_rng(0), hashlib.sha256()
    for kind in ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "yuv420p10le"):
        for size in ((96, 64), (97, 63), (322, 241)):
            frame = VideoFrame(*size, kind)
            most = 1024 if kind.endswith("10le") else 256
            for plane in frame.planes:
                count = plane.buffer_size // (2 if most > 256 else 1)
                values = noise.integers(0, most, count, np.uint16)
                plane.update((values if most > 256 else values.astype(np.uint8)).tobytes())
            digest.update(Converter().pixels(frame).tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
