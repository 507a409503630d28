"""A server whose engine a test holds, and what it says of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from http_server import Running
from pictures import PHOTO, encoded

from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import EngineError

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
