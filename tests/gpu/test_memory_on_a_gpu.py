"""Copies between this machine's memory and a GPU's."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from clsspec_serve.engines.device import Device
from clsspec_serve.engines.pinned import pinned

from .conftest import Note

SIZE = 1 << 26


def timed(act: Callable[[], None]) -> float:
    start = time.monotonic()
    act()
    return time.monotonic() - start


def test_copies_of_both_kinds_of_memory_are_exact(note: Note) -> None:
    device = Device(0)
    device.use()
    pool = pinned(device)
    address = device.allocate(SIZE)
    numbers = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    try:
        for kind, array in (
            ("ordinary", np.empty(SIZE, np.uint8)),
            ("page-locked", pool.array((SIZE,), np.uint8)),
        ):
            array[...] = numbers
            up = min(timed(lambda: device.upload(array, address)) for _ in range(9))  # noqa: B023
            array[...] = 0
            down = min(timed(lambda: device.download(address, array)) for _ in range(9))  # noqa: B023
            np.testing.assert_array_equal(array, numbers)
            rates = f"{SIZE / up / 1e9:.1f} GB/s to the GPU, {SIZE / down / 1e9:.1f} from it"
            note(f"{kind} memory: {rates}")
    finally:
        device.free(address)
