"""Shards in several processes of this machine, each with a model of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import Any

from clsspec_serve.dataset.run import Run
from clsspec_serve.dataset.runners.replicas import Lost, spread
from clsspec_serve.dataset.runners.runner import Done, News, Tell
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.worker import Resources, Worker
from clsspec_serve.engines.gpus import gpu_at

_SECONDS = 0.25
"""Between two messages with news."""
_SPAWN = multiprocessing.get_context("spawn")


class Processes:
    """A replica for each of some resources; those with GPUs have them of one kind."""

    def __init__(self, resources: Sequence[Resources]) -> None:
        self._resources = resources
        self.device = resources[0].device
        self.gpu = None if self.device is None else gpu_at(self.device).name

    def run(self, run: Run, shards: Sequence[int], tell: Tell, done: Done) -> None:
        """See `Runner`."""
        starts = [partial(_Child, run.tree.address, each) for each in self._resources]
        spread(starts, shards, tell, done)


class _Child:
    """A process, seen from its parent."""

    def __init__(self, out: str, resources: Resources) -> None:
        self.ready: Future[None] = Future()
        self._records: dict[int, Future[Record]] = {}
        self._news = News()
        self._error: BaseException | None = None
        self._lock = Lock()
        self._connection, other = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(other, out, resources), daemon=True)
        self._process.start()
        other.close()
        self._listening = Thread(target=self._listen, daemon=True)
        self._listening.start()

    def compute(self, shard: int) -> Future[Record]:
        """See `Replica`."""
        record: Future[Record] = Future()
        with self._lock:
            if self._error is None:
                self._records[shard] = record
            else:
                record.set_exception(self._error)
        # That the process has gone is noticed where its answers are awaited.
        with suppress(OSError):
            self._connection.send(shard)
        return record

    def news(self) -> News:
        """See `Replica`."""
        with self._lock:
            news, self._news = self._news, News()
        return news

    def close(self) -> None:
        """See `Replica`."""
        self._process.kill()
        self._process.join()
        self._listening.join()
        self._connection.close()

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._hear(self._connection.recv())
        self._process.join()
        self._fail(Lost(f"ended with {_reason(self._process.exitcode)}"))

    def _hear(self, message: Any) -> None:
        if isinstance(message, News):
            with self._lock:
                self._news += message
        elif isinstance(message, Record):
            with self._lock:
                record = self._records.pop(message.shard)
            record.set_result(message)
        elif isinstance(message, BaseException):
            self._fail(message)
        else:
            self.ready.set_result(None)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = error
            waiting = list(self._records.values())
            self._records.clear()
        if not self.ready.done():
            self.ready.set_exception(error)
        for record in waiting:
            record.set_exception(error)


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _serve(connection: Connection, out: str, resources: Resources) -> None:
    """What the process does until its parent is gone."""
    # An interrupt on the terminal is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock = Lock()

    def send(message: Any) -> None:
        with lock, suppress(OSError):
            connection.send(message)

    def outcome(record: Future[Record]) -> None:
        error = record.exception()
        send(record.result() if error is None else _sendable(error))

    try:
        worker = Worker(out, resources)
        send("ready")
        while True:
            if connection.poll(_SECONDS):
                worker.compute(connection.recv()).add_done_callback(outcome)
            send(worker.news())
    except EOFError:
        pass
    except BaseException as error:
        send(_sendable(error))
    # Without waiting for what is in work, which nobody waits for.
    os._exit(0)


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
