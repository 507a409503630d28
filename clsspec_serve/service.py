"""Encoded pictures of one request → what the network found, side by side with other requests.

Knows no HTTP. Headers are read before pixels, pixels are decoded before a picture takes a place in
a batch, and all of it happens in threads, so that the event loop only carries messages.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import numpy as np

from clsspec_serve.batching import Answer, Batcher, Observe
from clsspec_serve.budget import Budget
from clsspec_serve.choices import Task
from clsspec_serve.dense.views import view_grid
from clsspec_serve.errors import Busy, ImageTooLarge
from clsspec_serve.heads import answer_shape
from clsspec_serve.images import Encoded
from clsspec_serve.manifest import Manifest
from clsspec_serve.predictor import Model, Prediction
from clsspec_serve.preparation import Prepared
from clsspec_serve.request import Options, Request
from clsspec_serve.transform import CHANNELS

P = ParamSpec("P")
R = TypeVar("R")

_FLOAT = 4
_BYTES_PER_PIXEL = {"segment": 2, "depth": 4}
"""Of an answer at the picture's own size, at most."""
_DECODING = 26
"""Bytes per pixel that decoding takes, of any format, at most (`benchmarks/decoding.py`)."""
_RESIZING = 8
"""The same of a picture that is resized along one axis."""


@dataclass(frozen=True)
class Capacity:
    """How much work is taken.

    `batch`: views in one forward pass. `pictures`: in work and waiting, all together.
    `decoding_bytes`: of pictures while they are decoded. `found_bytes`: of what the network is
    shown and finds, until it is written. `view_patches`: of what the network sees at once;
    `picture_patches`: of all windows of a picture. `threads`: for decoding, and as many for
    encoding.
    """

    batch: int = 8
    pictures: int = 256
    decoding_bytes: int = 2304 << 20
    found_bytes: int = 1152 << 20
    view_patches: int = 4096
    picture_patches: int = 65536
    threads: int = 2


@dataclass(frozen=True)
class Decoded:
    """A picture ready for the network: `seconds` it took, from `started` of the monotonic clock."""

    prepared: Prepared
    started: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """What the network found in one picture."""

    decoded: Decoded
    answer: Answer


Outcome = Found | Exception


@dataclass(frozen=True)
class _Opened:
    """A picture whose header was read.

    `decoding`: bytes that it takes for as long as it is decoded; `kept`: from then until its answer
    is written. `decoded`: where that has been done.
    """

    decoding: int
    kept: int
    decoded: Decoded | None = None


class Service:
    """A bundle on its engines, for the coroutines of one event loop.

    `models`: the same bundle, on each engine. `observe`: see `Batcher`.
    """

    def __init__(
        self,
        models: Sequence[Model],
        capacity: Capacity,
        observe: Observe = lambda views, seconds: None,
    ) -> None:
        self.capacity = capacity
        self.decoding = Budget(capacity.decoding_bytes)
        self.kept = Budget(capacity.found_bytes)
        self.batcher = Batcher(models, largest=capacity.batch, observe=observe)
        self.pictures = 0
        self._models, self._model = models, models[0]
        self._decoders = ThreadPoolExecutor(capacity.threads, "decode")
        self._encoders = ThreadPoolExecutor(capacity.threads, "encode")

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._model.manifest

    def request(self, options: Options) -> Request:
        """Settle options against the bundle; raises `UsageError`."""
        return self._model.request(**options)

    @asynccontextmanager
    async def found(
        self, pictures: Sequence[bytes], request: Request
    ) -> AsyncIterator[list[Outcome]]:
        """What is found in each picture, or why nothing; the memory is held for the block.

        Leave at any time, by cancelling, and what has not begun is dropped. Raises `Busy`, and
        `ImageTooLarge` when the pictures together need more than all the memory that there is.
        """
        with self._admitted(len(pictures)):
            opened = await self.in_decoder(self._open, pictures, request)
            kept = sum(each.kept for each in opened if isinstance(each, _Opened))
            if kept > self.kept.total:
                raise ImageTooLarge(
                    f"the pictures of this request take {kept} bytes; accepted are "
                    f"{self.kept.total}"
                )
            async with self.kept.lent(kept):
                work = [
                    self._find(picture, each, request)
                    for picture, each in zip(pictures, opened, strict=True)
                ]
                # One alone needs no task of its own.
                yield [await work[0]] if len(work) == 1 else await asyncio.gather(*work)

    @property
    def failure(self) -> str | None:
        """Why the engine failed the last time; None when it has succeeded since."""
        return self.batcher.failure

    async def warm_up(self, tasks: Sequence[Task], count: int) -> None:
        """Run blank pictures of the usual size through every engine; raises what goes wrong."""
        request = self.request({"tasks": tasks})
        prepared = await self._blank(request)
        views = np.stack([next(prepared.views())] * count)
        runs = [asyncio.to_thread(model.forward, views, request) for model in self._models]
        await asyncio.gather(*runs)

    async def try_blank(self, tasks: Sequence[Task]) -> None:
        """Ask for a blank picture of the usual size; raises what goes wrong."""
        request = self.request({"tasks": tasks})
        future = self.batcher.submit(await self._blank(request), request)
        await asyncio.wrap_future(future)

    def finish(self, found: Found, request: Request) -> Prediction:
        """The answers at the picture's own size; for a thread that is for answers."""
        return self._model.finish(found.decoded.prepared, found.answer.views, request)

    async def in_decoder(self, decode: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in a thread that is for what came in."""
        return await asyncio.wrap_future(self._decoders.submit(decode, *args, **kwargs))

    async def in_encoder(self, encode: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function in a thread that is for answers."""
        return await asyncio.wrap_future(self._encoders.submit(encode, *args, **kwargs))

    def close(self) -> None:
        """Answer what waits, and take no more."""
        self.batcher.close()
        self._decoders.shutdown(cancel_futures=True)
        self._encoders.shutdown()

    async def _blank(self, request: Request) -> Prepared:
        blank = np.zeros((*request.preprocessing.size, 3), np.uint8)
        return await self.in_decoder(self._model.prepare, blank, request)

    @contextmanager
    def _admitted(self, pictures: int) -> Iterator[None]:
        if self.pictures + pictures > self.capacity.pictures:
            raise Busy(
                f"{self.pictures} pictures are in work, and {pictures} more came; accepted are "
                f"{self.capacity.pictures}"
            )
        self.pictures += pictures
        try:
            yield
        finally:
            self.pictures -= pictures

    async def _find(self, picture: bytes, opened: _Opened | Exception, request: Request) -> Outcome:
        if isinstance(opened, Exception):
            return opened
        try:
            decoded = opened.decoded or await self._decoded(picture, opened.decoding, request)
            future = self.batcher.submit(decoded.prepared, request)
            return Found(decoded, await asyncio.wrap_future(future))
        # Whatever one picture brings about, the others of the request are answered.
        except Exception as error:
            return error

    async def _decoded(self, picture: bytes, memory: int, request: Request) -> Decoded:
        await self.decoding.take(memory)
        # Who leaves does not stop the thread, so the memory is free when that has ended.
        future = self._decoders.submit(self._decode, picture, request)
        future.add_done_callback(lambda _: self.decoding.give(memory))
        return await asyncio.wrap_future(future)

    def _decode(self, picture: bytes, request: Request) -> Decoded:
        start = time.monotonic()
        prepared = self._model.prepare(picture, request)
        return Decoded(prepared, start, time.monotonic() - start)

    def _open_one(self, picture: bytes, request: Request, *, alone: bool) -> _Opened:
        start = time.monotonic()
        with Encoded(picture, request.limits) as encoded:
            opened = self._memory_of(encoded.size, request)
            if not (alone and self.decoding.take_at_once(opened.decoding)):
                return opened
            try:
                prepared = self._model.prepare(encoded, request)
            finally:
                self.decoding.give(opened.decoding)
            return replace(opened, decoded=Decoded(prepared, start, time.monotonic() - start))

    def _open(self, pictures: Sequence[bytes], request: Request) -> list[_Opened | Exception]:
        """Read the headers.

        A picture that is alone is decoded at once where there is memory: to wake a thread again,
        and to read the header again, takes a while.
        """
        opened: list[_Opened | Exception] = []
        for picture in pictures:
            try:
                opened.append(self._open_one(picture, request, alone=len(pictures) == 1))
            # As in `_find`.
            except Exception as error:
                opened.append(error)
        return opened

    def _memory_of(self, size: tuple[int, int], request: Request) -> _Opened:
        """Bytes of decoding, and of the network's input, of what it gives and of the answers.

        Raises `ImageTooLarge` for what the memory is too small for. EXIF orientation may swap the
        sides, which changes none of them.
        """
        height, width = size
        geometry, tiling = self._model.frame((height, width), request)
        rows, columns = view_grid(geometry, tiling)
        limits = self.capacity
        if rows * columns > limits.view_patches:
            raise ImageTooLarge(
                f"the network would see {rows}x{columns} patches at once; accepted are "
                f"{limits.view_patches}"
            )
        if rows * columns * tiling.views > limits.picture_patches:
            raise ImageTooLarge(
                f"the network would see {tiling.views} windows of {rows}x{columns} patches; "
                f"accepted are {limits.picture_patches} patches in all"
            )
        decoding = _DECODING * height * width + _RESIZING * height * geometry.resized[1]
        if decoding > self.decoding.total:
            raise ImageTooLarge(
                f"decoding a picture of {width}x{height} takes {decoding} bytes; accepted are "
                f"{self.decoding.total}"
            )
        per_pixel = sum(_BYTES_PER_PIXEL.get(head.task, 0) for head in request.heads)
        inputs = CHANNELS * geometry.input[0] * geometry.input[1]
        given = tiling.views * self._floats_of_view(rows, columns, request)
        return _Opened(decoding, per_pixel * height * width + inputs + _FLOAT * given)

    def _floats_of_view(self, rows: int, columns: int, request: Request) -> int:
        """How many numbers the backbone and the heads give for so many patches."""
        vectors = sum(
            rows * columns if output.kind == "patches" else 1 for output in request.outputs
        )
        answers = sum(math.prod(answer_shape(head, 1, (rows, columns))) for head in request.heads)
        return vectors * self.manifest.architecture.embed_dim + answers
