"""`clsspec serve` as a process of its own: how it starts and how it ends."""

from __future__ import annotations

import io
import signal
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from command_line import Clsspec
from http_server import colour_bundle
from pictures import PHOTO, encoded
from server_process import SECONDS, running

from clsspec_serve import Model, load
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity

PICTURE = encoded(PHOTO, "JPEG")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundle(tmp_path / "colours")


def test_it_answers_and_ends_with_exit_code_0(bundle: Path) -> None:
    with running("--model", bundle, "--threads", "1") as server:
        server.wait_until_ready()
        answer = httpx.post(f"{server.url}/embed?format=npy", content=PICTURE, trust_env=False)
        wanted = load(bundle)(PICTURE).cls
        np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), wanted)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0


def test_every_request_that_was_admitted_is_answered_before_the_end(bundle: Path) -> None:
    with (
        running("--model", bundle, "--threads", "1", "--drain", "0.5") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        server.wait_until_ready()
        wanted = httpx.post(f"{server.url}/segment?size=560", content=PICTURE, trust_env=False)
        stopping = threading.Event()

        def ask() -> tuple[int, int]:
            """How many answers were right, and how many requests never got through."""
            right = turned_away = 0
            with httpx.Client(base_url=server.url, timeout=SECONDS, trust_env=False) as client:
                while not turned_away:
                    try:
                        answer = client.post("/segment?size=560", content=PICTURE)
                    except httpx.ConnectError:
                        turned_away += 1
                        continue
                    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                        # An idle connection that closed before the request was sent over it.
                        assert stopping.is_set()
                        turned_away += 1
                        continue
                    assert answer.content == wanted.content, answer.text
                    right += 1
            return right, turned_away

        asking = [pool.submit(ask) for _ in range(8)]
        time.sleep(1)
        stopping.set()
        server.process.send_signal(signal.SIGTERM)
        seen_unready = False
        try:
            while True:
                answer = httpx.get(f"{server.url}/health/ready", trust_env=False)
                seen_unready = seen_unready or answer.status_code == 503
                time.sleep(0.02)
        except httpx.TransportError:
            pass
        results = [each.result(SECONDS) for each in asking]
        assert server.process.wait(SECONDS) == 0
        assert seen_unready
        assert sum(right for right, _ in results) > 8
        taken = sum('"path": "/segment"' in line for line in server.lines)
        answered = sum('"path": "/segment", "status": 200' in line for line in server.lines)
        assert taken == answered == sum(right for right, _ in results) + 1


def test_a_second_signal_does_not_wait(bundle: Path) -> None:
    with running("--model", bundle, "--drain", "60") as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        assert httpx.get(f"{server.url}/health/live", trust_env=False).status_code == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(SECONDS) == 1


def test_on_an_open_address_a_key_is_made_and_printed(bundle: Path) -> None:
    with running("--model", bundle, "--host", "0.0.0.0") as server:
        key = server.wait_for(r"clients need this key: (\S{32})")[1]
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        refused = httpx.post(f"{url}/embed", content=PICTURE, trust_env=False)
        assert refused.status_code == 401
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{url}/embed", content=PICTURE, headers=headers, trust_env=False)
        assert answer.status_code == 200
        assert httpx.get(f"{url}/health/live", trust_env=False).status_code == 200


def test_keys_come_from_the_environment_too(bundle: Path) -> None:
    with running("--model", bundle, CLSSPEC_API_KEY="one two") as server:
        for key, status in (("one", 200), ("two", 200), ("one two", 401)):
            headers = {"X-API-Key": key}
            answer = httpx.post(
                f"{server.url}/embed", content=PICTURE, headers=headers, trust_env=False
            )
            assert answer.status_code == status
    assert not any("two" in line for line in server.lines)


def test_no_auth_is_for_who_says_so(bundle: Path) -> None:
    with running("--model", bundle, "--host", "0.0.0.0", "--no-auth") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(f"{url}/embed", content=PICTURE, trust_env=False).status_code == 200


def test_replicas_give_the_same_answers(bundle: Path) -> None:
    with running("--model", bundle, "--replicas", "2", "--threads", "1") as server:
        server.wait_until_ready()
        with ThreadPoolExecutor(4) as pool, httpx.Client(trust_env=False) as client:
            answers = pool.map(
                lambda _: client.post(f"{server.url}/embed?format=npy", content=PICTURE), range(20)
            )
            assert len({answer.content for answer in answers}) == 1


def test_a_port_that_is_taken_is_one_line(bundle: Path, clsspec: Clsspec) -> None:
    with running("--model", bundle) as server:
        port = server.url.rpartition(":")[2]
        result = clsspec("serve", "--model", bundle, "--port", port)
    assert result.code == 2
    assert result.error() == f"cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid:0: "),
        (("--engine", "openvino", "--precision", "fp32", "--model", "nowhere"), "nowhere"),
        (("--no-auth", "--api-key", "k"), "--api-key and --no-auth contradict each other"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(
    bundle: Path, clsspec: Clsspec, arguments: tuple[str, ...], message: str
) -> None:
    model = () if "--model" in arguments else ("--model", bundle)
    result = clsspec("serve", "--port", "0", *model, *arguments)
    assert result.code in (1, 2)
    assert message in result.error()


def test_the_options_reach_the_server(
    bundle: Path, clsspec: Clsspec, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Sequence[Model], Capacity, Settings]] = []
    started: list[dict[str, Any]] = []

    def start(*_: Any, **how: Any) -> Any:
        started.append(how)

    class NoServer:
        def __init__(self, *_: Any) -> None: ...

        def run(self, listeners: list[socket.socket]) -> None:
            for listener in listeners:
                listener.close()

    monkeypatch.setattr("clsspec_serve.http.logs.configure", lambda: None)
    monkeypatch.setattr("clsspec_serve.loading.start", start)
    monkeypatch.setattr("clsspec_serve.http.app.create_app", lambda *given: made.append(given))
    monkeypatch.setattr("clsspec_serve.http.server.Server", NoServer)
    result = clsspec(
        *("serve", "--model", bundle, "--port", "0", "--replicas", "3", "--threads", "2"),
        *("--batch-size", "5", "--max-pending", "7", "--max-images", "4", "--max-pixels", "99"),
        *("--max-patches", "50", "--max-body-mb", "1", "--max-decoded-mb", "2", "--timeout", "9"),
        *("--drain", "3", "--api-key", "k", "--url-host", "example.org"),
    )
    assert result.code == 0, result.err
    assert started == [
        {
            **{"engine": "onnxruntime", "precision": "fp32", "threads": 2},
            **{"shared": True, "device": None, "batch_size": 5},
        }
        for _ in range(3)
    ]
    ((models, capacity, settings),) = made
    assert len(models) == 3
    assert capacity == Capacity(
        batch=5,
        pictures=7,
        decoding_bytes=2 << 20,
        found_bytes=1 << 20,
        view_patches=50,
        picture_patches=800,
        threads=6,
    )
    assert settings == Settings(
        body_bytes=1 << 20,
        bodies_bytes=512 << 20,
        answers_bytes=1 << 20,
        pictures=4,
        pixels=99,
        seconds=9,
        drain_seconds=3,
        keys=("k",),
        url_hosts=("example.org",),
    )


def test_an_empty_key_opens_nothing(clsspec: Clsspec, bundle: Path) -> None:
    """As from a variable of the shell that is not set."""
    result = clsspec("serve", "--model", bundle, "--host", "0.0.0.0", "--api-key", "")
    assert result.code == 2
    assert result.error() == "an API key is empty, or has spaces or control characters"
