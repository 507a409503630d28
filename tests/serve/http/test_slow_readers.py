"""Clients that take little or nothing of their answer: they are cut off, and hold up nothing."""

from __future__ import annotations

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import http_server
import pytest
from http_server import Running, serving
from pictures import PHOTO, encoded
from PIL import Image
from raw_connections import GET, LONG, SECONDS, given_up, rest, until

from clsspec_serve import Model, load
from clsspec_serve.http.server import listen
from clsspec_serve.http.settings import Settings

PICTURE = encoded(PHOTO.resize((800, 600), Image.Resampling.NEAREST), "PNG")
DEPTH = b"POST /depth?format=npy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
    len(PICTURE),
    PICTURE,
)
"""For 1,920,000 bytes."""


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Model:
    return load(bundle, threads=1)


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel keeps little of an answer, so that the server has the rest."""

    def listen_small(host: str, port: int) -> socket.socket:
        listener = listen(host, port)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listener

    monkeypatch.setattr(http_server, "listen", listen_small)


def slow(server: Running) -> socket.socket:
    """A connection whose client's kernel takes little ahead."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(LONG)
    connection.connect((host, int(port)))
    return connection


@pytest.mark.usefixtures("small_buffers")
def test_a_short_answer_that_nobody_fetches_is_cut(engine: Model) -> None:
    with serving([engine], settings=Settings(seconds=SECONDS)) as server:
        whole = len(server.client.get("/openapi.json").content)
        with slow(server) as stuck, slow(server) as going_on:
            stuck.sendall(GET)
            going_on.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            # The second takes longer than `SECONDS`, but takes.
            assert len(rest(going_on, 3 * SECONDS / (whole / 4096))) > whole
            assert len(rest(stuck)) < whole / 2


@pytest.mark.usefixtures("small_buffers")
def test_who_takes_too_little_of_a_long_answer_is_cut_off_quietly(
    engine: Model, caplog: pytest.LogCaptureFixture
) -> None:
    with serving([engine], settings=Settings(seconds=SECONDS)) as server, slow(server) as client:
        client.sendall(DEPTH)
        received = rest(client, 0.01)
        assert len(received) < 600_000
        until(lambda: given_up(server, "/depth") == 1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.usefixtures("small_buffers")
def test_who_leaves_in_the_middle_of_an_answer_is_not_counted_as_answered(engine: Model) -> None:
    with serving([engine]) as server:
        with slow(server) as client:
            client.sendall(DEPTH)
            received = b""
            while len(received) < 4000:
                received += client.recv(4000)
        until(lambda: given_up(server, "/depth") == 1)


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize(("answers", "pause"), [(10, 0.1), (1, 0.4), (1, LONG)])
def test_a_server_that_stops_does_not_wait_for_who_takes_little_or_nothing(
    engine: Model, answers: int, pause: float
) -> None:
    with ExitStack() as running, ExitStack() as clients:
        server = running.enter_context(serving([engine], settings=Settings(seconds=SECONDS)))
        whole = len(server.client.get("/openapi.json").content)
        client = clients.enter_context(slow(server))
        stopped = threading.Event()

        def take() -> int:
            taken = 0
            while not stopped.wait(pause):
                taken += len(client.recv(4096))
            return taken + len(rest(client))

        taking = clients.enter_context(ThreadPoolExecutor(1)).submit(take)
        clients.callback(stopped.set)
        client.sendall(answers * GET)
        time.sleep(0.2)
        start = time.monotonic()
        running.close()
        assert time.monotonic() - start < LONG / 2
        stopped.set()
        assert taking.result(LONG) < answers * whole
