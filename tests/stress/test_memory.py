"""The server's memory after thousands of requests of mixed sizes, beside a server that leaks."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import skimage.data
from pictures import encoded
from PIL import Image
from server_process import SERVE, running

REQUESTS = 5000
FIRST = 200
"""Requests before the memory is looked at: caches fill, and the allocator finds its size."""
MOST = 100 * 1024**2
LEAKING = (sys.executable, str(Path(__file__).with_name("leaking_server.py")))


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def requests(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Paths and bodies."""
    random = np.random.default_rng(seed)
    photograph = Image.fromarray(skimage.data.astronaut())
    sizes = [(60, 80), (300, 200), (512, 512), (333, 900), (1200, 1600)]
    bodies = [encoded(photograph.resize(size), form) for size in sizes for form in ("JPEG", "PNG")]
    paths = [
        *("/embed", "/features", "/segment", "/depth", "/predict", "/predict?format=json"),
        *("/features?format=png", "/features?pool=2&dtype=float16&format=safetensors"),
    ]
    for _ in range(count):
        path = paths[int(random.integers(len(paths)))]
        side = 16 * int(random.integers(6, 18))
        shown = f"size={side}&resize={random.choice(['fit', 'squash', 'short'])}"
        body = bodies[int(random.integers(len(bodies)))]
        yield f"{path}{'&' if '?' in path else '?'}{shown}", body


def growth(command: Sequence[str], count: int) -> tuple[int, int]:
    """Bytes by which a server grows over that many requests, and those it has before."""
    with (
        running(command=command) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
        ThreadPoolExecutor(4) as pool,
    ):

        def ask(request: tuple[str, bytes]) -> int:
            path, body = request
            return int(client.post(path, content=body).status_code)

        server.wait_until_ready()
        asked = requests(FIRST + count, 11)
        assert set(pool.map(ask, itertools.islice(asked, FIRST))) == {200}
        before = resident(server.process.pid)
        assert set(pool.map(ask, asked)) == {200}
        return resident(server.process.pid) - before, before


@pytest.mark.stress
def test_memory_does_not_grow_with_the_number_of_requests(tenth: bool) -> None:
    count = REQUESTS // 10 if tenth else REQUESTS
    grown, before = growth(SERVE, count)
    print(f"{count} requests: {before / 1e6:.0f} MB and {grown / 1e6:+.0f} MB")
    assert grown < MOST


@pytest.mark.stress
def test_a_server_that_leaks_is_caught() -> None:
    count = REQUESTS // 5
    grown, before = growth(LEAKING, count)
    print(f"{count} requests, leaking: {before / 1e6:.0f} MB and {grown / 1e6:+.0f} MB")
    assert grown > MOST
