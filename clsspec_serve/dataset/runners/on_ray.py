"""Shards on a Ray cluster: an actor for each replica, and tasks that decode where CPUs are free.

Every node has to reach the run's folder, the pictures and the model by the same addresses, and to
have the same versions of clsspec, of the engine and of the decoders; one that differs is refused.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
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
from clsspec_serve.engines.gpus import gpu_at
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


@dataclass(frozen=True)
class Node:
    """A part of a cluster: its CPUs and GPUs, and of which kind these are, in Ray's words."""

    cpus: int
    gpus: int = 0
    kind: str | None = None


class OnRay:
    """Replicas of so many CPUs each; `decoders` further ones for each of them, wherever they are.

    With 0 decoders a replica decodes by itself. `resources`: of each; with a device it has a GPU of
    its own, all of one `kind`. The cluster is the one that `RAY_ADDRESS` names, or that runs on
    this machine; without any this machine is one.
    """

    def __init__(
        self,
        replicas: int,
        cpus: int,
        decoders: int,
        resources: Resources,
        kind: str | None = None,
    ) -> None:
        self.replicas, self.cpus, self.decoders = replicas, cpus, decoders
        self._resources = resources
        self.on_gpus = resources.device is not None
        self._place = {"num_gpus": 1, "accelerator_type": kind} if self.on_gpus else {}

    @classmethod
    def sized(
        cls,
        nodes: Sequence[Node],
        replicas: int | None,
        threads: int | None,
        decoders: int | None,
        readers: int,
        *,
        gpus: bool = False,
    ) -> OnRay:
        """What is not given, as it fills the cluster: a replica has the threads for its CPUs.

        `decoders` None is 0. `gpus`: whether a replica has one; where there are several kinds, one
        of which there are most, the last by name of several such.
        """
        tasks, kind = decoders or 0, None
        if gpus:
            kinds: Counter[str | None] = Counter()
            for node in nodes:
                kinds[node.kind] += node.gpus
            kind = max(kinds, key=lambda each: (kinds[each], each or ""), default=None)
            places = [node for node in nodes if node.gpus and node.kind == kind]
            each = [node.cpus // node.gpus for node in places]
            cpus = threads or max(1, min(each, default=1) - tasks)
            fitting = sum(node.gpus for node in places)
        else:
            cpus = threads or max(1, min((node.cpus for node in nodes), default=1) - tasks)
            fitting = sum(node.cpus for node in nodes) // (cpus + tasks)
        resources = Resources(cpus, Threads(readers, cpus), 0 if gpus else None)
        return cls(replicas or max(1, fitting), cpus, tasks, resources, kind)

    @cached_property
    def gpu(self) -> str | None:
        """See `Runner`; it waits for a GPU that is free."""
        if not self.on_gpus:
            return None
        connect()
        try:
            return ray.get(ray.remote(_gpu_name).options(num_cpus=0, **self._place).remote())
        except RayTaskError as error:
            raise error.cause or error from error
        except RayError as error:
            raise DatasetError(f"ray: {one_line(error)}") from error

    def run(self, run: Run, shards: Sequence[int], tell: Tell, done: Done) -> None:
        """See `Runner`."""
        out = run.tree.address
        try:
            connect()
            node = _Node()
            starts = [partial(self._started, out, node)] * self.replicas
            spread(starts, shards, tell, done)
        except RayError as error:
            raise DatasetError(f"ray: {one_line(error)}") from error

    def _started(self, out: str, node: _Node) -> _Remote:
        actor = ray.remote(_Actor).options(
            num_cpus=self.cpus, max_concurrency=AHEAD + 2, max_restarts=0, **self._place
        )
        return _Remote(actor.remote(out, self._resources, self.decoders), node)


def connect() -> list[Node]:
    """The nodes that have CPUs; raises `DatasetError` where no cluster is reached."""
    try:
        if not ray.is_initialized():
            _reach(os.environ.get("RAY_ADDRESS", ""))
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        raise DatasetError(f"ray: {one_line(error)}") from error
    found = [_node(node["Resources"]) for node in nodes if node["Alive"]]
    return [node for node in found if node.cpus]


def _node(resources: Mapping[str, float]) -> Node:
    prefix = "accelerator_type:"
    kinds = [name.removeprefix(prefix) for name in resources if name.startswith(prefix)]
    cpus, gpus = (int(resources.get(name, 0)) for name in ("CPU", "GPU"))
    return Node(cpus, gpus, kinds[0] if kinds and gpus else None)


def _gpu_name() -> str:
    """What a task that has a GPU does."""
    return gpu_at(0).name


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
    bundle = same_bundle(state, state.fingerprint.get("gpu"))  # no GPU is needed here
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
