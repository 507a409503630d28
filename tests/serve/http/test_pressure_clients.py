"""Clients that are slow, many or gone: the server gives them up, and comes back."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from held_server import PICTURE, SECONDS, Gate, embed, idle, until, value
from http_server import Running, observed, serving
from pictures import encoded
from PIL import Image

from clsspec_serve import load
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity


def raw(server: Running) -> socket.socket:
    """A connection without a client library around it."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(SECONDS)
    return connection


def _refused(connection: socket.socket) -> bool:
    connection.sendall(b"GET /model HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection.recv(4096).startswith(b"HTTP/1.1 503")


def test_bytes_that_are_announced_and_not_sent_keep_nobody_away(bundle: Path) -> None:
    settings = Settings(body_bytes=100_000, bodies_bytes=200_000)
    with serving([load(bundle, threads=1)], settings=settings) as server, ExitStack() as held:
        for _ in range(8):
            connection = held.enter_context(raw(server))
            connection.sendall(b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        assert embed(server).status_code == 200


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


def test_too_many_connections_are_refused_and_the_others_live_on(bundle: Path) -> None:
    settings = Settings(connections=10)
    with serving([load(bundle, threads=1)], settings=settings) as server:
        assert embed(server).status_code == 200
        held = [raw(server) for _ in range(20)]
        until(lambda: any(_refused(connection) for connection in held))
        for connection in held:
            connection.close()
        until(lambda: embed(server).status_code == 200)
