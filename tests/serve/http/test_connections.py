"""Clients that bring too much, nothing or no end: their connections end."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from http_server import Running, serving
from raw_connections import GET, LONG, SECONDS, given_up, raw, rest, until

from clsspec_serve import Model, load
from clsspec_serve.http.connection import HEAD_BYTES
from clsspec_serve.http.errors import ProblemBody
from clsspec_serve.http.settings import Settings

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = (
    b"POST /embed HTTP/1.1\r\nHost: x\r\nX-API-Key: secret\r\nTransfer-Encoding: chunked\r\n\r\n"
)
UNENDED = b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n"


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Model:
    return load(bundle, threads=1)


@pytest.fixture(scope="module")
def server(engine: Model) -> Iterator[Running]:
    settings = Settings(seconds=SECONDS, keys=("secret",), connections=10)
    with serving([engine], settings=settings) as running:
        yield running


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
