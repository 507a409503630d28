"""The pictures of a run, read and decoded ahead of the network, in the listing's order."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from clsspec_serve.dataset.contents import UNKNOWN, Content
from clsspec_serve.dataset.listing import Item
from clsspec_serve.dataset.rows import Duplicate, Failure, Unanswered, failure_of
from clsspec_serve.dataset.sources.source import Raw, Reader
from clsspec_serve.dataset.stalls import Times
from clsspec_serve.errors import ImageError
from clsspec_serve.manifest import Manifest
from clsspec_serve.preparation import Prepared, prepare
from clsspec_serve.request import Request

CHUNK = 8
"""Pictures that go from thread to thread together, as a change of threads takes its time, too."""


class Job(NamedTuple):
    """A picture of a shard, whether it is the shard's last one, and what is known of its bytes."""

    shard: int
    item: Item
    last: bool
    content: Content = UNKNOWN


Preparing = tuple[Sequence[Job], "Future[list[Prepared | Unanswered]]"]
"""Neighbours of one shard, and what becomes of them."""


class Preparation(Protocol):
    """Where pictures are read and decoded."""

    def start(self, jobs: Iterable[Job], times: Times) -> Generator[Preparing]:
        """All pictures, in order, some time before they are ready; when closed, the rest is left.

        What is waited for on the way is added to `times`.
        """
        ...


@dataclass(frozen=True)
class Steps:
    """How one picture is read and decoded; what fails is told, not raised."""

    manifest: Manifest
    request: Request
    reader: Reader

    def read(self, jobs: Sequence[Job]) -> list[Raw | Unanswered]:
        """The pictures' bytes, or what the reader has made of them."""
        return [self._read(job) for job in jobs]

    def decode(self, contents: Sequence[Raw | Unanswered]) -> list[Prepared | Unanswered]:
        """The pictures, ready for the network."""
        return [self._decode(content) for content in contents]

    def _read(self, job: Job) -> Raw | Unanswered:
        if job.content.duplicate_of is not None:
            return Duplicate(job.content.duplicate_of)
        if job.item.problem is not None:
            return Failure("unreadable", job.item.problem)
        try:
            return self.reader.read(job.item)
        except ImageError as error:
            return failure_of(error)

    def _decode(self, content: Raw | Unanswered) -> Prepared | Unanswered:
        if isinstance(content, Failure | Duplicate):
            return content
        try:
            return prepare(self.manifest, content, self.request)
        except ImageError as error:
            return failure_of(error)


def chunks(jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
    """So many neighbours of one shard, or fewer at its end."""
    chunk: list[Job] = []
    for job in jobs:
        chunk.append(job)
        if len(chunk) == size or job.last:
            yield chunk
            chunk = []


class InThreads:
    """In threads of this process: some read, as many as the reader can use, some decode."""

    def __init__(self, steps: Steps, *, readers: int, decoders: int) -> None:
        self._steps, self._decoders = steps, decoders
        self._readers = min(readers, steps.reader.threads or readers)
        # What is decoded when it is read is large, and takes its time by itself.
        self._chunk = CHUNK if steps.reader.threads is None else 1

    def start(self, jobs: Iterable[Job], times: Times) -> Generator[Preparing]:
        """See `Preparation`."""
        reading = ThreadPoolExecutor(self._readers, "read")
        decoding = ThreadPoolExecutor(self._decoders, "decode")
        reads: deque[tuple[list[Job], Future[list[Raw | Unanswered]]]] = deque()
        waiting: deque[Future[list[Prepared | Unanswered]]] = deque()
        complete = False

        def first() -> Preparing:
            chunk, read = reads.popleft()
            with times.spent("reading"):
                contents = read.result()
            # As many as keep all threads at work, lest they pile up here.
            if len(waiting) == 2 * self._decoders:
                wait([waiting.popleft()])
            waiting.append(decoding.submit(self._steps.decode, contents))
            return chunk, waiting[-1]

        try:
            for chunk in chunks(jobs, self._chunk):
                reads.append((chunk, reading.submit(self._steps.read, chunk)))
                # The next shard may be long in coming.
                while len(reads) > (0 if chunk[-1].last else self._readers):
                    yield first()
            complete = True
        finally:
            for pool in (reading, decoding):
                pool.shutdown(cancel_futures=not complete)
