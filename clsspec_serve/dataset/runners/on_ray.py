"""Shards on a Ray cluster: an actor for each replica, and tasks that decode where CPUs are free.

Every node has to reach the run's folder, the pictures and the model by the same addresses, and to
have the same versions of clsspec, of the engine and of the decoders; one that differs is refused.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeVar

from clsspec_serve.dataset.preparing import Job, Preparing, Steps, chunks
from clsspec_serve.dataset.rows import Unanswered
from clsspec_serve.dataset.run import Run, State, open_run
from clsspec_serve.dataset.runners.replicas import AHEAD, Lost, spread
from clsspec_serve.dataset.runners.runner import Done, News, Tell
from clsspec_serve.dataset.shards import Record
from clsspec_serve.dataset.sources.reading import open_reader
from clsspec_serve.dataset.stalls import Times
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.worker import Resources, Worker, same_bundle
from clsspec_serve.dataset.working import Threads
from clsspec_serve.errors import DatasetError, one_line
from clsspec_serve.preparation import Prepared
from clsspec_serve.request import settle

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

CHUNK = 8
"""Pictures that a task reads and decodes."""

_LOOK = 5.0
"""Seconds between two looks at whether the driver's node is there, and for a cluster to answer."""

T = TypeVar("T")


class OnRay:
    """Replicas of so many CPUs each; `decoders` further ones for each of them, wherever they are.

    With 0 decoders a replica decodes by itself. The cluster is the one that `RAY_ADDRESS` names, or
    that runs on this machine; without any this machine is one.
    """

    def __init__(self, replicas: int, cpus: int, decoders: int, resources: Resources) -> None:
        self.replicas, self.cpus, self.decoders = replicas, cpus, decoders
        self._resources = resources

    @classmethod
    def sized(
        cls, replicas: int | None, threads: int | None, decoders: int | None, readers: int
    ) -> OnRay:
        """What is not given, as it fills the cluster: a replica has the threads for its CPUs.

        `decoders` None is 0. Raises `DatasetError`.
        """
        nodes = connect()
        tasks = decoders or 0
        cpus = threads or max(1, min(nodes, default=1) - tasks)
        fitting = sum(nodes) // (cpus + tasks)
        resources = Resources(cpus, Threads(readers, cpus))
        return cls(replicas or max(1, fitting), cpus, tasks, resources)

    def run(self, run: Run, shards: Sequence[int], tell: Tell, done: Done) -> None:
        """See `Runner`."""
        out = run.tree.address
        try:
            connect()
            node = _Node()
            spread(lambda: self._started(out, node), self.replicas, shards, tell, done)
        except RayError as error:
            raise DatasetError(f"ray: {one_line(error)}") from error

    def _started(self, out: str, node: _Node) -> _Remote:
        actor = ray.remote(_Actor).options(
            num_cpus=self.cpus, max_concurrency=AHEAD + 2, max_restarts=0
        )
        return _Remote(actor.remote(out, self._resources, self.decoders), node)


def connect() -> list[int]:
    """The CPUs of each node that has any; raises `DatasetError` where no cluster is reached."""
    try:
        if not ray.is_initialized():
            _reach(os.environ.get("RAY_ADDRESS", ""))
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise DatasetError(f"ray: {one_line(error)}") from error
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    return [count for count in cpus if count]


def _reach(address: str) -> None:
    """Raise `ConnectionError` for a `host:port` that Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_LOOK).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{address} cannot be reached: {one_line(error)}") from error


class _Actor:
    """A worker on a node."""

    def __init__(self, out: str, resources: Resources, decoders: int) -> None:
        self._out, self._resources, self._decoders = out, resources, decoders

    def begin(self) -> None:
        """Load the model."""
        preparation = None
        if self._decoders:
            state = open_run(open_tree(self._out)).state
            preparation = InTasks(state, self._decoders)
        self._worker = Worker(self._out, self._resources, preparation)

    def compute(self, shard: int) -> Record:
        """See `Worker`; here it waits."""
        return self._worker.compute(shard).result()

    def news(self) -> News:
        """See `Worker`."""
        return self._worker.news()


class _Remote:
    """An actor, seen from the driver."""

    def __init__(self, actor: Any, node: _Node) -> None:
        self._actor, self._node = actor, node
        self.ready: Future[None] = _outcome(actor.begin.remote())
        self._asked: Future[News] | None = None

    def compute(self, shard: int) -> Future[Record]:
        """See `Replica`."""
        return _outcome(self._actor.compute.remote(shard))

    def news(self) -> News:
        """See `Replica`; raises `DatasetError` when nothing can come any more."""
        self._node.check()
        news = News()
        if self._asked is not None and self._asked.done():
            if self._asked.exception() is None:
                news = self._asked.result()
            self._asked = None
        if self._asked is None and self.ready.done() and self.ready.exception() is None:
            self._asked = _outcome(self._actor.news.remote())
        return news

    def close(self) -> None:
        """See `Replica`."""
        ray.kill(self._actor)


class _Node:
    """The node of the driver, without which Ray leaves it waiting for ever."""

    def __init__(self) -> None:
        self._id = ray.get_runtime_context().get_node_id()
        self._looked = time.monotonic()

    def check(self) -> None:
        """Raise `DatasetError` when it is not there any more."""
        if time.monotonic() - self._looked < _LOOK:
            return
        self._looked = time.monotonic()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        if not any(each["NodeID"] == self._id and each["Alive"] for each in nodes):
            raise DatasetError("ray: this machine has left the cluster; the same command goes on")


class InTasks:
    """Pictures that Ray tasks of one CPU each read and decode; lost ones are tried again."""

    def __init__(self, state: State, tasks: int) -> None:
        self._state, self._tasks = state.model_dump_json(), tasks
        self._prepare = ray.remote(_prepared).options(num_cpus=1, max_retries=-1)

    def start(self, jobs: Iterable[Job], times: Times) -> Generator[Preparing]:
        """See `Preparation`."""
        given: deque[Preparing] = deque()
        for chunk in chunks(jobs, CHUNK):
            given.append((chunk, _outcome(self._prepare.remote(self._state, chunk))))
            # The next shard may be long in coming.
            while len(given) > (0 if chunk[-1].last else self._tasks):
                yield given.popleft()


def _prepared(state: str, jobs: Sequence[Job]) -> list[Prepared | Unanswered]:
    """What a task does."""
    steps = _steps(state)
    return steps.decode(steps.read(jobs))


@lru_cache(maxsize=1)
def _steps(text: str) -> Steps:
    state = State.model_validate_json(text)
    bundle = same_bundle(state)
    request = settle(bundle.manifest, state.asked.options())
    return Steps(bundle.manifest, request, open_reader(state.place, request.limits.max_pixels))


def _outcome(reference: Any) -> Future[Any]:
    """What Ray's reference stands for, with the errors that were raised there."""
    outcome: Future[Any] = Future()

    def pass_on(future: Future[Any]) -> None:
        try:
            outcome.set_result(future.result())
        except RayActorError as error:
            outcome.set_exception(Lost(f"ended: {one_line(error)}"))
        except RayTaskError as error:
            outcome.set_exception(error.cause or error)
        except BaseException as error:
            outcome.set_exception(error)

    reference.future().add_done_callback(pass_on)
    return outcome
