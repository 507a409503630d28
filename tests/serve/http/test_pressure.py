"""Too much, too late, broken: the server stays bounded and comes back."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from held_server import PICTURE, SECONDS, Gate, embed, idle, until, value
from http_server import observed, serving
from pictures import PHOTO, encoded
from PIL import Image

from clsspec_serve import load
from clsspec_serve.http import health
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity


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
