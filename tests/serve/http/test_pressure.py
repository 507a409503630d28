"""Too much, too slow, too late, gone, broken: the server stays bounded and comes back."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from http_server import Running, observed, serving
from pictures import PHOTO, encoded
from PIL import Image

from clsspec_serve import load
from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import EngineError
from clsspec_serve.http import health
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity

PICTURE = encoded(PHOTO, "JPEG")
SECONDS = 20


class Gate:
    """Holds the engine while it is shut; open at first, for the warm-up."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.fail = False
        self._open = threading.Event()
        self._open.set()

    def __call__(self, inputs: Values) -> None:
        self.passes.append(len(inputs["pixels"]))
        if not self._open.wait(SECONDS):
            raise RuntimeError("the gate was never opened")
        if self.fail:
            raise EngineError("the device is lost")

    def shut(self) -> None:
        self._open.clear()
        self.passes.clear()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open()


def until(true: Callable[[], Any]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > end:
            pytest.fail("it never became true")
        time.sleep(0.005)


def value(server: Running, name: str) -> float:
    """One of the server's numbers."""
    for line in server.client.get("/metrics").text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return 0.0


def embed(server: Running) -> httpx.Response:
    return server.client.post("/embed?format=npy", content=PICTURE)


def idle(server: Running) -> bool:
    """Nothing is in work, and no memory or body is set aside."""
    names = (
        *("pictures_in_work", "views_waiting", "decoding_bytes", "found_bytes"),
        *("body_bytes", "answer_bytes"),
    )
    return all(value(server, f"clsspec_{name}") == 0 for name in names)


def test_beyond_what_may_be_in_work_requests_are_told_to_come_again(
    bundle: Path, gate: Gate
) -> None:
    capacity = Capacity(pictures=4, threads=2)
    with (
        serving([observed(bundle, gate)], capacity) as server,
        ThreadPoolExecutor(12) as clients,
    ):
        wanted = embed(server).content
        gate.shut()
        taken = [clients.submit(embed, server) for _ in range(4)]
        until(lambda: value(server, "clsspec_pictures_in_work") == 4)
        for _ in range(5):
            answer = embed(server)
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["type"] == "busy"
        assert server.client.get("/health/ready").status_code == 200
        gate.open()
        np.testing.assert_equal({done.result(SECONDS).status_code for done in taken}, {200})
        assert embed(server).content == wanted
        until(lambda: idle(server))


def test_the_bodies_of_all_requests_together_are_bounded(bundle: Path, gate: Gate) -> None:
    settings = Settings(body_bytes=len(PICTURE) + 10, bodies_bytes=2 * len(PICTURE) + 10)
    with (
        serving([observed(bundle, gate)], settings=settings) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        gate.shut()
        taken = [clients.submit(embed, server) for _ in range(2)]
        until(lambda: value(server, "clsspec_body_bytes") == 2 * len(PICTURE))
        answer = embed(server)
        assert answer.status_code == 429
        gate.open()
        assert [done.result(SECONDS).status_code for done in taken] == [200, 200]
        until(lambda: idle(server))


def test_bytes_that_are_announced_and_not_sent_keep_nobody_away(bundle: Path) -> None:
    settings = Settings(body_bytes=100_000, bodies_bytes=200_000)
    with serving([load(bundle, threads=1)], settings=settings) as server, ExitStack() as held:
        for _ in range(8):
            connection = held.enter_context(raw(server))
            connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert embed(server).status_code == 200


def test_requests_that_do_not_fit_into_memory_together_wait_for_each_other(
    bundle: Path, gate: Gate
) -> None:
    pixels = 120 * 180
    alone = 26 * pixels + 8 * 120 * 42  # decoding, and the rows at the network's width
    capacity = Capacity(decoding_bytes=alone, threads=2)
    with (
        serving([observed(bundle, gate)], capacity) as server,
        ThreadPoolExecutor(4) as clients,
    ):
        answers = [clients.submit(embed, server) for _ in range(4)]
        assert [done.result(SECONDS).status_code for done in answers] == [200] * 4
        larger = encoded(PHOTO.resize((181, 120)), "JPEG")
        answer = server.client.post("/embed", content=larger)
        assert answer.status_code == 413
        message = answer.json()["error"]["message"]
        assert message == (
            f"decoding a picture of 181x120 takes {alone + 26 * 120} bytes; accepted are {alone}"
        )


def test_past_its_deadline_a_request_is_answered_so_and_dropped(bundle: Path, gate: Gate) -> None:
    with serving([observed(bundle, gate)], settings=Settings(seconds=0.3)) as server:
        wanted = embed(server).content
        gate.shut()
        with ThreadPoolExecutor(3) as clients:
            late = [clients.submit(embed, server)]
            until(lambda: gate.passes)
            late += [clients.submit(embed, server) for _ in range(2)]
            for done in late:
                answer = done.result(SECONDS)
                assert answer.status_code == 504
                assert answer.json()["error"]["type"] == "timeout"
        until(lambda: value(server, "clsspec_pictures_in_work") == 0)
        gate.open()
        assert embed(server).content == wanted
        assert sum(gate.passes) == 2  # of the late ones only the first had begun


def test_a_body_that_comes_too_slowly_is_given_up(bundle: Path) -> None:
    with serving([load(bundle, threads=1)], settings=Settings(seconds=0.3)) as server:
        with raw(server) as connection:
            head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
            connection.sendall(head.encode() + PICTURE[:100])
            until(lambda: value(server, "clsspec_body_bytes") == 100)
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
        until(lambda: idle(server))
        assert embed(server).status_code == 200


def test_a_body_that_ends_early_leaves_nothing_behind(bundle: Path) -> None:
    with serving([load(bundle, threads=1)]) as server:
        for _ in range(20):
            with raw(server) as connection:
                head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PICTURE)}\r\n\r\n"
                connection.sendall(head.encode() + PICTURE[:1000])
        until(lambda: idle(server))
        assert embed(server).status_code == 200


def test_an_answer_that_nobody_fetches_is_given_up(bundle: Path) -> None:
    settings = Settings(seconds=1.5)
    capacity = Capacity(view_patches=100_000, threads=2)
    with serving([load(bundle, threads=1)], capacity, settings) as server:
        with raw(server) as connection:
            # 30 MB of depth, of which the kernel's buffers take a part.
            large = encoded(Image.new("RGB", (3000, 2500)), "PNG")
            connection.sendall(
                b"POST /depth?format=npy HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: %d\r\n\r\n" % len(large) + large
            )
            line = 'clsspec_requests_total{route="/depth",status="499"}'
            until(lambda: value(server, line) == 1)
        assert embed(server).status_code == 200


def test_answers_that_nobody_fetches_are_bounded_together(bundle: Path) -> None:
    large = encoded(Image.new("RGB", (3000, 2500)), "PNG")
    settings = Settings(seconds=20, answers_bytes=50_000_000)
    with serving([load(bundle, threads=1)], settings=settings) as server:
        with raw(server) as connection:
            connection.sendall(
                b"POST /depth?format=npy HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: %d\r\n\r\n" % len(large) + large
            )
            until(lambda: value(server, "clsspec_answer_bytes") > 29_000_000)
            answer = server.client.post("/depth?format=npy", content=large)
            assert answer.status_code == 429
            assert answer.json()["error"]["type"] == "busy"
            assert embed(server).status_code == 200
        until(lambda: idle(server))
        assert server.client.post("/depth?format=npy", content=large).status_code == 200


def test_an_answer_that_is_fetched_slowly_arrives_whole(bundle: Path) -> None:
    large = encoded(Image.new("RGB", (1600, 1200), (100, 0, 0)), "PNG")
    with serving([load(bundle, threads=1)], settings=Settings(seconds=2)) as server:
        wanted = server.client.post("/depth?format=npy", content=large).content
        with raw(server) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(
                b"POST /depth?format=npy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n" % len(large) + large
            )
            received = bytearray()
            start = time.monotonic()
            while chunk := connection.recv(1 << 18):
                received += chunk
                time.sleep(0.08)
        assert time.monotonic() - start > 2  # longer than `seconds`, but it went on
        assert bytes(received).partition(b"\r\n\r\n")[2] == wanted


def test_a_client_that_leaves_is_dropped_from_the_batch(bundle: Path, gate: Gate) -> None:
    with serving([observed(bundle, gate)]) as server:
        gate.shut()
        with ThreadPoolExecutor(1) as clients:
            first = clients.submit(embed, server)
            until(lambda: gate.passes)
            for _ in range(5):
                with raw(server) as connection:
                    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PICTURE)}\r\n"
                    connection.sendall(head.encode() + b"\r\n" + PICTURE)
                    until(lambda: value(server, "clsspec_views_waiting") == 1)
                until(lambda: value(server, "clsspec_pictures_in_work") == 1)
            gate.open()
            assert first.result(SECONDS).status_code == 200
        assert gate.passes == [1]
        until(lambda: idle(server))
        assert value(server, 'clsspec_requests_total{route="/embed",status="499"}') == 5


def test_a_failing_engine_makes_the_server_unready_with_the_reason_until_it_works(
    bundle: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PROBE_SECONDS", 0.05)
    with serving([observed(bundle, gate)]) as server:
        gate.fail = True
        answer = embed(server)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "the device is lost"
        for _ in range(3):
            answer = server.client.get("/health/ready")
            assert answer.status_code == 503
            message = answer.json()["error"]["message"]
            assert message == "the engine failed: the device is lost"
            time.sleep(0.06)
        assert server.client.get("/health/live").status_code == 200
        gate.fail = False
        # Nobody sends pictures to a server that is not ready: it tries by itself.
        until(lambda: server.client.get("/health/ready").status_code == 200)
        assert embed(server).status_code == 200


def test_pictures_of_many_clients_share_batches(bundle: Path, gate: Gate) -> None:
    with (
        serving([observed(bundle, gate)], Capacity(batch=4, threads=2)) as server,
        ThreadPoolExecutor(16) as clients,
    ):
        gate.shut()
        answers = [clients.submit(embed, server)]
        until(lambda: gate.passes)
        answers += [clients.submit(embed, server) for _ in range(12)]
        until(lambda: value(server, "clsspec_views_waiting") == 12)
        gate.open()
        assert len({done.result(SECONDS).content for done in answers}) == 1
        assert gate.passes == [1, 4, 4, 4]


def test_too_many_connections_are_refused_and_the_others_live_on(bundle: Path) -> None:
    settings = Settings(connections=10)
    with serving([load(bundle, threads=1)], settings=settings) as server:
        assert embed(server).status_code == 200
        held = [raw(server) for _ in range(20)]
        until(lambda: any(_refused(connection) for connection in held))
        for connection in held:
            connection.close()
        until(lambda: embed(server).status_code == 200)


def test_other_requests_are_answered_while_a_long_body_is_decoded(bundle: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2500, 3000, 3), np.uint8)
    large = encoded(Image.fromarray(noise), "PNG")

    async def both(url: str) -> list[float]:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            decoding = asyncio.create_task(client.post("/embed", content=large))
            waits = []
            while not decoding.done():
                start = time.monotonic()
                assert (await client.get("/health/live")).status_code == 200
                waits.append(time.monotonic() - start)
                await asyncio.sleep(0.005)
            assert decoding.result().status_code == 200
            return waits

    with serving([load(bundle, threads=1)]) as server:
        waits = asyncio.run(both(server.url))
    assert len(waits) > 10
    assert sorted(waits)[len(waits) // 2] < 0.1


def raw(server: Running) -> socket.socket:
    """A connection without a client library around it."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(SECONDS)
    return connection


def _refused(connection: socket.socket) -> bool:
    connection.sendall(b"GET /model HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(4096).startswith(b"HTTP/1.1 503")
