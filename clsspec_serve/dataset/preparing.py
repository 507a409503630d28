"""The pictures of a run, read and decoded ahead of the network, in the listing's order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.rows import Failure, failure_of
from clsspec_serve.dataset.sources.source import Reader
from clsspec_serve.dataset.stalls import Times
from clsspec_serve.errors import ImageError
from clsspec_serve.manifest import Manifest
from clsspec_serve.preparation import Prepared, prepare
from clsspec_serve.request import Request


class Job(NamedTuple):
    """A picture of a shard, and whether it is the shard's last one."""

    shard: int
    item: Item
    last: bool


Preparing = tuple[Job, "Future[Prepared | Failure]"]


class Preparation(Protocol):
    """Where pictures are read and decoded."""

    def start(self, jobs: Iterable[Job], times: Times) -> Generator[Preparing]:
        """Each picture, in order, some time before it is ready; when closed, the rest is left.

        What is waited for on the way is added to `times`.
        """
        ...


@dataclass(frozen=True)
class Steps:
    """How one picture is read and decoded; what fails is told, not raised."""

    manifest: Manifest
    request: Request
    reader: Reader

    def read(self, item: Item) -> bytes | Failure:
        """The picture's bytes."""
        if item.problem is not None:
            return Failure("unreadable", item.problem)
        try:
            return self.reader.read(item)
        except ImageError as error:
            return failure_of(error)

    def decode(self, content: bytes | Failure) -> Prepared | Failure:
        """The picture, ready for the network."""
        if isinstance(content, Failure):
            return content
        try:
            return prepare(self.manifest, content, self.request)
        except ImageError as error:
            return failure_of(error)


class InThreads:
    """In threads of this process: some read, some decode."""

    def __init__(self, steps: Steps, *, readers: int, decoders: int) -> None:
        self._steps, self._readers, self._decoders = steps, readers, decoders

    def start(self, jobs: Iterable[Job], times: Times) -> Generator[Preparing]:
        """See `Preparation`."""
        reading = ThreadPoolExecutor(self._readers, "read")
        decoding = ThreadPoolExecutor(self._decoders, "decode")
        reads: deque[tuple[Job, Future[bytes | Failure]]] = deque()
        complete = False

        def first() -> Preparing:
            job, read = reads.popleft()
            with times.spent("reading"):
                content = read.result()
            return job, decoding.submit(self._steps.decode, content)

        try:
            for job in jobs:
                reads.append((job, reading.submit(self._steps.read, job.item)))
                # The next shard may be long in coming.
                while len(reads) > (0 if job.last else 2 * self._readers):
                    yield first()
            complete = True
        finally:
            for pool in (reading, decoding):
                pool.shutdown(cancel_futures=not complete)
