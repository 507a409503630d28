"""What takes too long is answered so, whatever it is that takes so long."""

from __future__ import annotations

import asyncio
import base64
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from http_server import Running, observed, serving
from pictures import PHOTO, encoded

from clsspec_serve import load
from clsspec_serve.http.app import create_app
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity

PICTURE = encoded(PHOTO, "JPEG")


def embed(server: Running) -> httpx.Response:
    return server.client.post("/embed?format=npy", content=PICTURE)


def test_parsing_of_bodies_ends_with_the_requests_time(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where every thread that could parse one is busy."""
    release = Event()
    model = load(bundle, threads=1)
    prepare = model.prepare
    with serving([model], settings=Settings(seconds=0.5)) as server:

        def waiting(picture: Any, request: Any) -> Any:
            release.wait(20)
            return prepare(picture, request)

        monkeypatch.setattr(model, "prepare", waiting)
        with ThreadPoolExecutor(3) as clients:
            slow = [clients.submit(embed, server) for _ in range(2)]
            body = {"image": base64.b64encode(PICTURE).decode()}
            for path in ("/embed", "/v1/embeddings", "/v2/models/tiny/infer"):
                start = time.monotonic()
                assert server.client.post(path, json=body).status_code == 504
                assert time.monotonic() - start < 5
            assert [each.result(20).status_code for each in slow] == [504, 504]
            release.set()
        assert embed(server).status_code == 200


def test_an_engine_that_does_not_come_back_is_not_ready(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what its pictures' askers have left behind is not kept."""
    monkeypatch.setattr("clsspec_serve.batching.PATIENCE", 0.3)
    release, hang = Event(), Event()

    def hanging(inputs: Any) -> None:
        if hang.is_set():
            release.wait(20)

    with serving([observed(bundle, hanging)], settings=Settings(seconds=0.5)) as server:
        hang.set()
        with ThreadPoolExecutor(8) as clients:
            answers = [clients.submit(embed, server) for _ in range(24)]
            assert {each.result(20).status_code for each in answers} == {504}
        answer = server.client.get("/health/ready")
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert message.startswith("the engine failed: a forward pass has taken ")
        assert "clsspec_views_waiting 0.0" in server.client.get("/metrics").text
        release.set()
        deadline = time.monotonic() + 10
        while server.client.get("/health/ready").status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert embed(server).status_code == 200


def test_a_server_that_is_stopped_in_its_warm_up_runs_no_more_of_it(bundle: Path) -> None:
    passes: list[int] = []
    first, release = Event(), Event()

    def slow(inputs: Any) -> None:
        passes.append(len(inputs["pixels"]))
        first.set()
        release.wait(20)

    app = create_app([observed(bundle, slow)], Capacity(threads=2), Settings())

    async def begin_and_end() -> None:
        async with app.router.lifespan_context(app):
            await asyncio.to_thread(first.wait, 20)
            app.state.health.drain()
            release.set()

    asyncio.run(begin_and_end())
    assert passes == [1]
