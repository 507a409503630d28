"""Clients that bring too much, nothing or no end, or take nothing: their connections end."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import http_server
import pytest
from http_server import Running, serving
from pictures import PHOTO, encoded
from PIL import Image

from clsspec_serve import Model, load
from clsspec_serve.http.app import create_app
from clsspec_serve.http.connection import HEAD_BYTES
from clsspec_serve.http.errors import ProblemBody
from clsspec_serve.http.server import Server, listen
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity

SECONDS = 0.5
"""The server's patience."""
LONG = 8
"""Seconds in which what has an end has come to it, on a busy machine too."""
GET = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = (
    b"POST /embed HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n"
)
UNENDED = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"
PICTURE = encoded(PHOTO.resize((800, 600), Image.Resampling.NEAREST), "PNG")
DEPTH = b"POST /depth?format=npy HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
    len(PICTURE),
    PICTURE,
)
"""For 1,920,000 bytes."""


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Model:
    return load(bundle, threads=1)


@pytest.fixture(scope="module")
def server(engine: Model) -> Iterator[Running]:
    settings = Settings(seconds=SECONDS, keys=("secret",), connections=10)
    with serving([engine], settings=settings) as running:
        yield running


def raw(server: Running) -> socket.socket:
    """A connection without a client library around it."""
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=LONG)


def rest(connection: socket.socket, pause: float = 0) -> bytes:
    """All that comes until the server closes; also where it cuts the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while chunk := connection.recv(4096):
            received += chunk
            time.sleep(pause)
    return bytes(received)


def seconds_until_closed(connection: socket.socket) -> float:
    """How long the server kept a connection over which nothing came."""
    start = time.monotonic()
    assert rest(connection) == b""
    return time.monotonic() - start


def answer_of(connection: socket.socket) -> bytes:
    """One answer, of which the connection stays open."""
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        chunk = connection.recv(65536)
        assert chunk, received
        received += chunk
    return received


def given_up(server: Running, route: str) -> float:
    """How many requests are counted as ones whose client left."""
    found = re.search(rf'"{route}",status="499"}} (.+)', server.client.get("/metrics").text)
    return float(found[1]) if found else 0


def until(true: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_refused(received: bytes, status: int, kind: str) -> dict[str, str]:
    """That it is one answer, in the form of all errors, which says that the connection closes."""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert first.split()[1] == str(status)
    error = ProblemBody(**json.loads(body)).error
    assert error.type == kind
    assert error.request_id == headers["x-request-id"]
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    return headers


def test_a_connection_over_which_nothing_comes_is_closed(server: Running) -> None:
    with raw(server) as connection:
        assert SECONDS / 2 < seconds_until_closed(connection) < LONG / 2


def test_headers_that_come_too_slowly_are_given_up(server: Running) -> None:
    with raw(server) as connection:

        def trickle() -> None:
            with suppress(OSError):
                for letter in LIVE[:-2] + 1000 * b"a":
                    connection.sendall(bytes([letter]))
                    time.sleep(0.03)

        sending = threading.Thread(target=trickle)
        sending.start()
        start = time.monotonic()
        assert_refused(rest(connection), 408, "timeout")
        assert time.monotonic() - start < LONG / 2
        sending.join(LONG)
        assert not sending.is_alive()


@pytest.mark.parametrize("begun", [LIVE[:30], b"\r\n"])
def test_between_requests_there_is_time_but_not_for_half_a_request(
    server: Running, begun: bytes
) -> None:
    with raw(server) as connection:
        for pause in (1.5 * SECONDS, 0):
            connection.sendall(CHUNKED + b"3\r\nabc\r\n")
            time.sleep(0.02)
            connection.sendall(b"0\r\n\r\n")
            assert answer_of(connection).startswith(b"HTTP/1.1 422")
            time.sleep(pause)
        connection.sendall(begun)
        assert_refused(rest(connection), 408, "timeout")


def test_half_a_request_behind_another_does_not_disturb_its_answer(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(UNENDED.replace(b"50000000", b"10\r\nX-API-Key: secret") + b"123")
        time.sleep(SECONDS / 2)
        connection.sendall(b"4567890")
        connection.sendall(LIVE[:30])
        received = rest(connection)
        assert received.count(b"HTTP/1.1") == 2
        assert received.startswith(b"HTTP/1.1 422")
        assert_refused(received[received.rindex(b"HTTP/1.1") :], 408, "timeout")


def test_what_is_no_http_is_refused_like_anything_else(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert_refused(rest(connection), 400, "invalid_request")


def test_a_body_that_is_damaged_is_refused_at_once(server: Running) -> None:
    with raw(server) as connection:
        before = given_up(server, "/embed")
        connection.sendall(CHUNKED + b"5\r\nabcde\r\n")
        time.sleep(0.05)
        connection.sendall(b"no number\r\n")
        assert_refused(rest(connection), 400, "invalid_request")
        until(lambda: given_up(server, "/embed") == before + 1)  # nothing works on it any more


@pytest.mark.parametrize("end", [b"\r\n\r\n", b""])
@pytest.mark.parametrize(
    "head",
    [
        b"GET /%b HTTP/1.1\r\nHost: x",
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie: %b",
        b"GET / HTTP/1.1\r\nHost: x%b",
    ],
)
def test_headers_of_more_than_64_kib_are_refused(server: Running, head: bytes, end: bytes) -> None:
    filling = b"\r\na: " + 95 * b"b" if head.endswith(b"x%b") else 100 * b"c"
    count = HEAD_BYTES // 100 + 1
    with raw(server) as connection:
        start = time.monotonic()
        connection.sendall(head % (count * filling) + end)
        assert_refused(rest(connection), 431, "too_large")
        assert time.monotonic() - start < SECONDS


def test_headers_of_less_than_64_kib_are_taken(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(LIVE[:-2] + b"Cookie: " + 65_000 * b"c" + b"\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 200")


def test_trailers_are_bounded_as_headers_are(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(CHUNKED + b"3\r\nabc\r\n")
        time.sleep(0.05)
        connection.sendall(b"0\r\na: ")
        for _ in range(8):
            connection.sendall(10_000 * b"b")
            time.sleep(0.01)
        assert_refused(rest(connection), 431, "too_large")


def test_long_bodies_in_small_chunks_are_no_headers(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(CHUNKED + 50_000 * b"1\r\na\r\n" + b"0\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 422")


def test_only_some_requests_that_are_sent_ahead_are_kept(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(1000 * LIVE)
        received = rest(connection)
        assert 1 < received.count(b"HTTP/1.1 200") < 100
        assert received.endswith(b"}")


def test_who_is_answered_before_the_end_of_the_body_cannot_go_on_for_ever(server: Running) -> None:
    with raw(server) as connection:
        connection.sendall(UNENDED)
        assert_refused(rest(connection), 401, "unauthorized")  # so it ends at once
        start = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() < start + LONG:
                connection.sendall(1000 * b"x")
                time.sleep(0.01)
        assert time.monotonic() < start + LONG / 2


def test_who_reads_only_after_the_whole_body_has_the_answer(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    with raw(server) as connection:  # more than the kernel keeps
        connection.sendall(UNENDED.replace(b"50000000", b"12000000") + bytes(12_000_000) + LIVE)
        assert_refused(rest(connection), 401, "unauthorized")
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_after_an_answer_to_a_whole_body_the_connection_lives_on(server: Running) -> None:
    with raw(server) as connection:
        for _ in range(2):
            connection.sendall(UNENDED.replace(b"50000000", b"3\r\nX-API-Key: secret") + b"abc")
            answer = answer_of(connection)
            assert answer.startswith(b"HTTP/1.1 422")
            assert b"close" not in answer


def test_too_many_idle_connections_hide_the_server_only_for_a_while(server: Running) -> None:
    headers = {"Connection": "close"}
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(raw(server))) for _ in range(12)]
        with raw(server) as connection:
            connection.sendall(GET)
            refusal = assert_refused(rest(connection), 503, "unavailable")
            assert refusal["retry-after"] == "1"
        for path in ("/health/live", "/health/ready", "/v2/health/ready", "/metrics"):
            assert server.client.get(path, headers=headers).status_code == 200
        for connection in idle:
            assert rest(connection) == b""
        assert server.client.get("/openapi.json", headers=headers).status_code == 200


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


def test_who_wants_it_to_stop_before_it_runs_has_it_stop_then(engine: Model) -> None:
    settings = Settings(drain_seconds=60)
    server = Server(create_app([engine], Capacity(threads=2), settings), settings)
    server.handle_exit(signal.SIGTERM, None)
    thread = threading.Thread(target=server.run, args=([listen("127.0.0.1", 0)],))
    thread.start()
    thread.join(LONG)
    stopped = not thread.is_alive()
    server.should_exit = True
    assert stopped


def test_a_second_signal_ends_the_process_whatever_its_threads_do() -> None:
    script = """if True:
        import signal, time
        from concurrent.futures import ThreadPoolExecutor
        from types import SimpleNamespace
        from clsspec_serve.http.server import Server
        from clsspec_serve.http.settings import Settings

        health = SimpleNamespace(drain=lambda: print("draining", flush=True))
        server = Server(SimpleNamespace(state=SimpleNamespace(health=health)), Settings())
        ThreadPoolExecutor(1).submit(time.sleep, 60)
        with server.capture_signals():
            signal.raise_signal(signal.SIGTERM)
            print("waits", flush=True)
            signal.raise_signal(signal.SIGTERM)
    """
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=4 * LONG
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == "draining\nwaits\n"
    assert ended.stderr == ""
