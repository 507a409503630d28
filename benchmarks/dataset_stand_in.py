"""The model inside, for the candidates of `dataset_work.py`, and an engine that only takes time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.choices import Precision
from clsspec_serve.engines.protocol import Values
from clsspec_serve.loading import start
from clsspec_serve.models import find_bundle
from clsspec_serve.predictor import Model


class StandIn:
    """An engine on another device, without the device: a batch takes `seconds`, the CPU is free.

    It computes one at a time, the next one as soon as the last one has ended. Its answers are the
    same noise each time.
    """

    name = "stand-in"
    precision: Precision = "fp32"

    def __init__(self, width: int, patch: int, seconds: float = 0) -> None:
        self._width, self._patch, self._seconds = width, patch, seconds
        self._lock, self._free = Lock(), 0.0

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Engine`."""
        count, _, height, width = inputs["pixels"].shape
        grid = {"cls": (), "patches": (height // self._patch, width // self._patch)}
        if self._seconds:
            with self._lock:
                self._free = end = max(self._free, time.monotonic()) + self._seconds
            time.sleep(max(0.0, end - time.monotonic()))
        return {name: noise(count, *grid[name], self._width) for name in outputs}


@cache
def noise(*shape: int) -> NDArray[np.float32]:
    """Features of no picture."""
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def embedded(seconds: float | None = None) -> Model:
    """The model inside, set up as `clsspec batch` does; with `seconds`, on a stand-in engine."""
    model = start(find_bundle(None), shared=True)
    if seconds is not None:
        architecture = model.manifest.architecture
        model.engine = StandIn(architecture.embed_dim, architecture.patch_size, seconds)
        model.at_once = 2 if seconds else 1  # as on a GPU
    return model
