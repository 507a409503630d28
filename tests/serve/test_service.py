from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_server import colour_bundle, observed
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from clsspec_serve import Model, load
from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import Busy, ImageError, ImageTooLarge
from clsspec_serve.images import ImageLimits
from clsspec_serve.request import Options
from clsspec_serve.service import Capacity, Found, Service


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundle(tmp_path / "colours")


def png(seed: int, height: int = 28, width: int = 42) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return encoded(Image.fromarray(pixels), "PNG")


def run(
    model: Model,
    body: Callable[[Service], Coroutine[Any, Any, None]],
    capacity: Capacity | None = None,
) -> None:
    async def inside() -> None:
        service = Service([model], capacity or Capacity(threads=2))
        try:
            await asyncio.wait_for(body(service), 30)
        finally:
            await asyncio.to_thread(service.close)

    asyncio.run(inside())


def arrays(service: Service, found: Any, options: Options) -> dict[str, NDArray[Any]]:
    assert isinstance(found, Found), found
    return dict(service.finish(found, service.request(options)).arrays)


def test_what_is_found_is_what_the_model_finds(bundle: Path) -> None:
    options: Options = {"tasks": ("cls", "patches", "segment", "depth", "classify")}
    model = load(bundle, threads=1)

    async def body(service: Service) -> None:
        pictures = [png(0), png(1, 40, 60), png(2, 90, 30)]
        async with service.found(pictures, service.request(options)) as outcomes:
            for picture, outcome in zip(pictures, outcomes, strict=True):
                wanted = load(bundle, threads=1)(picture, **options).arrays
                for name, array in arrays(service, outcome, options).items():
                    np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-5)

    run(model, body)


def test_a_bad_picture_spoils_its_own_answer_only(bundle: Path) -> None:
    async def body(service: Service) -> None:
        request = service.request({})
        pictures = [png(0), b"no picture", png(1)[:-30], png(2)]
        async with service.found(pictures, request) as outcomes:
            assert [type(outcome) for outcome in outcomes] == [
                *(Found, ImageError, ImageError, Found)
            ]

    run(load(bundle, threads=1), body)


def test_the_header_alone_says_that_a_picture_is_too_large(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(bundle, threads=1)
    prepared: list[Any] = []
    monkeypatch.setattr(model, "prepare", lambda *arguments: prepared.append(arguments))

    async def body(service: Service) -> None:
        request = service.request({"limits": ImageLimits(max_pixels=1000)})
        async with service.found([png(0)], request) as (outcome,):
            assert isinstance(outcome, ImageTooLarge)
            assert "has 42x28 = 1176 pixels; accepted are 1000" in str(outcome)

    run(model, body)
    assert prepared == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (280, 280)}, "the network would see 20x20 patches at once; accepted are 100"),
        (
            {"tasks": ("depth",), "size": (280, 280), "window": 28, "stride": 14},
            "the network would see 551 windows of 2x2 patches; accepted are 200 patches in all",
        ),
    ],
)
def test_what_would_be_too_much_for_the_network_is_refused_before_decoding(
    bundle: Path, options: Options, message: str
) -> None:
    async def body(service: Service) -> None:
        async with service.found([png(0)], service.request(options)) as (outcome,):
            assert isinstance(outcome, ImageTooLarge)
            assert str(outcome) == message

    run(load(bundle, threads=1), body, Capacity(view_patches=100, picture_patches=200, threads=2))


def test_the_memory_of_what_is_found_is_set_aside_until_the_answer_is_written(bundle: Path) -> None:
    async def body(service: Service) -> None:
        request = service.request({"tasks": ("segment", "depth")})
        async with service.found([png(0), b"bad", png(1, 40, 60)], request):
            # Two bytes of a mask and four of depth; the network's inputs; and for each patch three
            # logits and a depth.
            geometry, _ = service._model.frame((40, 60), request)
            inputs = 4 * (28 * 42 + geometry.input[0] * geometry.input[1])
            given = 4 * (3 + 1) * (2 * 3 + geometry.grid[0] * geometry.grid[1])
            assert service.kept.used == 6 * (28 * 42 + 40 * 60) + inputs + given
            assert service.decoding.used == 0
        assert service.kept.used == 0

    run(load(bundle, threads=1), body)


@pytest.mark.parametrize(
    ("pictures", "capacity", "message"),
    [
        (1, Capacity(decoding_bytes=39983), r"decoding a picture of 42x28 takes 39984 bytes"),
        (2, Capacity(found_bytes=9631), r"the pictures of this request take 9632 bytes; accepted"),
    ],
)
def test_pictures_that_never_fit_into_the_memory_are_refused(
    bundle: Path, pictures: int, capacity: Capacity, message: str
) -> None:
    async def body(service: Service) -> None:
        with pytest.raises(ImageTooLarge, match=message):
            async with service.found([png(0)] * pictures, service.request({})) as (outcome,):
                raise outcome
        assert service.decoding.used == service.kept.used == service.pictures == 0

    run(load(bundle, threads=1), body, capacity)


@pytest.mark.parametrize("together", [1, 3])
def test_requests_wait_for_memory_and_are_answered(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Each picture's memory for decoding is there while it is decoded, and for one at a time."""
    model = load(bundle, threads=1)
    prepare, seen = model.prepare, []

    async def body(service: Service) -> None:
        def note(picture: Any, request: Any) -> Any:
            seen.append(service.decoding.used)
            return prepare(picture, request)

        monkeypatch.setattr(model, "prepare", note)

        async def ask(seed: int) -> None:
            pictures = [png(seed + index) for index in range(together)]
            async with service.found(pictures, service.request({})) as outcomes:
                assert all(isinstance(outcome, Found) for outcome in outcomes)

        await asyncio.gather(*(ask(seed) for seed in range(12)))
        assert service.decoding.used == service.kept.used == 0

    run(model, body, Capacity(decoding_bytes=60000, found_bytes=20000, threads=4))
    assert seen == [39984] * 12 * together


def test_memory_for_decoding_is_free_when_the_thread_has_ended_not_when_the_asker_leaves(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(bundle, threads=1)
    prepare, release, began = model.prepare, threading.Event(), threading.Event()

    async def body(service: Service) -> None:
        def wait(picture: Any, request: Any) -> Any:
            began.set()
            release.wait(20)
            return prepare(picture, request)

        monkeypatch.setattr(model, "prepare", wait)

        async def ask() -> None:
            async with service.found([png(0), png(1)], service.request({})):
                pass

        task = asyncio.create_task(ask())
        await asyncio.to_thread(began.wait, 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert service.pictures == service.kept.used == 0
        assert service.decoding.used > 0
        release.set()
        while service.decoding.used:
            await asyncio.sleep(0.01)

    run(model, body)


def test_more_pictures_than_may_be_in_work_are_refused_at_once(bundle: Path) -> None:
    release = threading.Event()

    def wait(inputs: Values) -> None:
        release.wait(20)

    async def body(service: Service) -> None:
        request = service.request({})

        async def ask() -> None:
            async with service.found([png(0), png(1)], request) as outcomes:
                assert all(isinstance(outcome, Found) for outcome in outcomes)

        asking = asyncio.create_task(ask())
        while service.pictures != 2:
            await asyncio.sleep(0.01)
        with pytest.raises(Busy, match="2 pictures are in work, and 2 more came; accepted are 3"):
            async with service.found([png(2), png(3)], request):
                pass
        release.set()
        await asking
        assert service.pictures == 0

    run(observed(bundle, wait), body, Capacity(pictures=3, threads=2))


def test_who_leaves_gives_everything_back(bundle: Path) -> None:
    release = threading.Event()
    passes: list[int] = []

    def wait(inputs: Values) -> None:
        passes.append(len(inputs["pixels"]))
        release.wait(20)

    async def body(service: Service) -> None:
        request = service.request({})

        async def ask(seed: int) -> None:
            async with service.found([png(seed)], request):
                pass

        first = asyncio.create_task(ask(0))
        while not passes:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(ask(seed)) for seed in range(1, 6)]
        while service.batcher.waiting < 5:
            await asyncio.sleep(0.01)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        assert service.pictures == 1
        release.set()
        await first
        assert service.kept.used == service.pictures == 0

    run(observed(bundle, wait), body)
    assert passes == [1]  # those who left were never computed


def test_blank_pictures_go_through_every_head_on_every_engine(bundle: Path) -> None:
    passes: list[list[int]] = [[], []]

    def noting(index: int) -> Callable[[Values], None]:
        return lambda inputs: passes[index].append(len(inputs["pixels"]))

    models = [observed(bundle, noting(index)) for index in (0, 1)]

    async def inside() -> None:
        service = Service(models, Capacity(threads=2))
        await service.warm_up(("segment", "depth", "classify"), 3)
        await service.try_blank(("cls",))
        await asyncio.to_thread(service.close)

    asyncio.run(inside())
    assert sorted(passes) == [[3], [3, 1]]
