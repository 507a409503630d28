"""Signals that come before the server runs, and twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from raw_connections import LONG

from clsspec_serve import Model, load
from clsspec_serve.http.app import create_app
from clsspec_serve.http.server import Server, listen
from clsspec_serve.http.settings import Settings
from clsspec_serve.service import Capacity


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Model:
    return load(bundle, threads=1)


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
