"""From a picture's file to the network's input, on one core, without a model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from clsspec_serve.bench.times import Times
from clsspec_serve.images import read_image
from clsspec_serve.manifest import Manifest
from clsspec_serve.preparation import prepare
from clsspec_serve.request import Size, settle

SECONDS = 0.5


@dataclass(frozen=True)
class Preprocessing:
    """`picture`, `shown`: (H, W) in pixels of the file and of the network's input."""

    picture: Size
    shown: Size
    times: Times


def time_preprocessing(
    manifest: Manifest,
    picture: bytes,
    size: Size,
    clock: Callable[[], float] = time.perf_counter,
) -> Preprocessing:
    """Decode and transform one file, for half a second and at least once after a first time.

    `size`: (H, W) of the input that is asked for. Raises `ImageError` for a file that cannot be
    read.
    """
    request = settle(manifest, {"size": size})
    shown = prepare(manifest, picture, request).pixels.shape[1:]
    times: list[float] = []
    started = clock()
    while not times or clock() - started < SECONDS:
        before = clock()
        prepare(manifest, picture, request)
        times.append(clock() - before)
    height, width = read_image(picture).shape[:2]
    return Preprocessing((height, width), (shown[0], shown[1]), Times([times]))
