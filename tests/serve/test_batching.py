from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_server import colour_bundle, observed
from numpy.typing import NDArray

from clsspec_serve import Model, load
from clsspec_serve.batching import Answer, Batcher
from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import EngineError, Stopped
from clsspec_serve.request import Options

SECONDS = 20
"""A test that waits longer has failed."""


class Gate:
    """Holds an engine until it is opened, and counts what comes through."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.arrived = threading.Semaphore(0)
        self.open = threading.Event()
        self.fail: Callable[[Values], bool] = lambda inputs: False

    def __call__(self, inputs: Values) -> None:
        self.shapes.append(inputs["pixels"].shape)
        self.arrived.release()
        if not self.open.wait(SECONDS):
            raise RuntimeError("the gate was never opened")
        if self.fail(inputs):
            raise EngineError("these pixels are poison")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return colour_bundle(tmp_path / "colours")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def model(bundle: Path, gate: Gate) -> Model:
    return observed(bundle, gate)


@pytest.fixture
def batcher(model: Model, gate: Gate) -> Iterator[Batcher]:
    made = Batcher([model], largest=4)
    yield made
    gate.open.set()
    made.close()


def picture(seed: int, height: int = 28, width: int = 42) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def submit(
    batcher: Batcher, model: Model, pixels: NDArray[np.uint8], **options: Any
) -> tuple[Future[Answer], Callable[[], dict[str, NDArray[Any]]]]:
    """The future, and what makes the prediction's arrays of its answer."""
    request = model.request(**options)
    prepared = model.prepare(pixels, request)
    future = batcher.submit(prepared, request)

    def arrays() -> dict[str, NDArray[Any]]:
        answer = future.result(SECONDS)
        return dict(model.finish(prepared, answer.views, request).arrays)

    return future, arrays


def hold(batcher: Batcher, model: Model, gate: Gate) -> Future[Answer]:
    """Keep the engine busy with a picture, so that those that follow gather."""
    future, _ = submit(batcher, model, picture(99))
    assert gate.arrived.acquire(timeout=SECONDS)
    return future


def expected(bundle: Path, pixels: NDArray[np.uint8], **options: Any) -> dict[str, NDArray[Any]]:
    return dict(load(bundle, threads=1)(pixels, **options).arrays)


def same(found: dict[str, NDArray[Any]], wanted: dict[str, NDArray[Any]]) -> None:
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_picture_that_comes_alone_goes_at_once(
    batcher: Batcher, model: Model, gate: Gate, bundle: Path
) -> None:
    gate.open.set()
    _, arrays = submit(batcher, model, picture(0))
    same(arrays(), expected(bundle, picture(0)))
    assert gate.shapes == [(1, 4, 28, 42)]


def test_pictures_that_wait_together_go_together_and_get_their_own_answers(
    batcher: Batcher, model: Model, gate: Gate, bundle: Path
) -> None:
    hold(batcher, model, gate)
    waiting = [submit(batcher, model, picture(seed))[1] for seed in range(6)]
    gate.open.set()
    for seed, arrays in enumerate(waiting):
        same(arrays(), expected(bundle, picture(seed)))
    assert [shape[0] for shape in gate.shapes] == [1, 4, 2]


def test_pictures_of_other_shapes_wait_for_their_turn_in_the_order_in_which_they_came(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    hold(batcher, model, gate)
    sizes = [(28, 28), (42, 42), (28, 28), (42, 42)]
    waiting = [
        submit(batcher, model, picture(seed), size=size)[1] for seed, size in enumerate(sizes)
    ]
    gate.open.set()
    for arrays in waiting:
        arrays()
    assert gate.shapes[1:] == [(2, 4, 28, 28), (2, 4, 42, 42)]


def test_large_views_go_in_smaller_batches(model: Model, gate: Gate) -> None:
    batcher = Batcher([model], largest=4, patches=2 * 6)
    hold(batcher, model, gate)
    waiting = [submit(batcher, model, picture(seed))[1] for seed in range(3)]
    huge = submit(batcher, model, picture(3), size=(140, 140))[1]
    gate.open.set()
    for arrays in (*waiting, huge):
        arrays()
    batcher.close()
    assert [shape[0] for shape in gate.shapes] == [1, 2, 1, 1]


def test_who_asks_for_different_things_shares_a_forward_pass(
    batcher: Batcher, model: Model, gate: Gate, bundle: Path
) -> None:
    asked: list[Options] = [
        {"tasks": ("cls",)},
        {"tasks": ("patches", "segment")},
        {"tasks": ("depth",)},
        {"tasks": ("cls", "segment", "depth", "classify")},
    ]
    hold(batcher, model, gate)
    # A square, as the heads show a picture another way than the backbone does.
    pixels = [picture(seed, 28, 28) for seed in range(4)]
    waiting = [
        submit(batcher, model, each, size=(28, 28), **options)[1]
        for each, options in zip(pixels, asked, strict=True)
    ]
    gate.open.set()
    for each, options, arrays in zip(pixels, asked, waiting, strict=True):
        same(arrays(), expected(bundle, each, size=(28, 28), **options))
    assert gate.shapes[1:] == [(4, 4, 28, 28)]


def test_windows_of_several_pictures_share_batches_and_are_put_together_rightly(
    batcher: Batcher, model: Model, gate: Gate, bundle: Path
) -> None:
    options: Options = {"tasks": ("depth",), "window": 28, "stride": 14, "flip": True}
    pixels = [picture(seed, 28, 70) for seed in range(3)]
    hold(batcher, model, gate)
    waiting = [submit(batcher, model, each, **options)[1] for each in pixels]
    gate.open.set()
    for each, arrays in zip(pixels, waiting, strict=True):
        same(arrays(), expected(bundle, each, **options))
    assert sum(shape[0] for shape in gate.shapes[1:]) == 3 * 8


def test_one_picture_in_many_windows_does_not_keep_the_others_waiting(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    hold(batcher, model, gate)
    long, _ = submit(batcher, model, picture(0, 28, 700), tasks=("depth",), window=28, stride=14)
    short, _ = submit(batcher, model, picture(1, 28, 28), size=(42, 42))
    order: list[str] = []
    long.add_done_callback(lambda _: order.append("long"))
    short.add_done_callback(lambda _: order.append("short"))
    gate.open.set()
    long.result(SECONDS)
    short.result(SECONDS)
    assert order == ["short", "long"]


def test_a_poisoned_picture_spoils_its_own_answer_only(
    batcher: Batcher, model: Model, gate: Gate, bundle: Path
) -> None:
    poison = np.full((28, 42, 3), 13, np.uint8)
    gate.fail = lambda inputs: bool((inputs["pixels"][:, :3] == 13).all(axis=(1, 2, 3)).any())
    hold(batcher, model, gate)
    good = [submit(batcher, model, picture(seed))[1] for seed in range(2)]
    bad, _ = submit(batcher, model, poison)
    last = submit(batcher, model, picture(2))[1]
    gate.open.set()
    with pytest.raises(EngineError, match="these pixels are poison"):
        bad.result(SECONDS)
    for seed, arrays in enumerate([*good, last]):
        same(arrays(), expected(bundle, picture(seed)))
    assert batcher.failure is None  # a good one came after it


def test_a_failing_engine_is_known_until_it_works_again(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    gate.open.set()
    gate.fail = lambda inputs: True
    failing, _ = submit(batcher, model, picture(0))
    with pytest.raises(EngineError):
        failing.result(SECONDS)
    assert batcher.failure == "these pixels are poison"
    gate.fail = lambda inputs: False
    submit(batcher, model, picture(0))[0].result(SECONDS)
    assert batcher.failure is None


def test_an_error_that_is_not_ours_reaches_the_asker_and_the_thread_lives_on(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    def explode(inputs: Values) -> bool:
        raise ZeroDivisionError("in the engine")

    gate.open.set()
    gate.fail = explode
    with pytest.raises(ZeroDivisionError):
        submit(batcher, model, picture(0))[0].result(SECONDS)
    gate.fail = lambda inputs: False
    submit(batcher, model, picture(0))[0].result(SECONDS)


def test_who_leaves_while_waiting_is_never_computed(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    hold(batcher, model, gate)
    gone, _ = submit(batcher, model, picture(0))
    stays, _ = submit(batcher, model, picture(1))
    assert batcher.waiting == 2
    assert gone.cancel()
    assert batcher.waiting == 1
    gate.open.set()
    stays.result(SECONDS)
    assert [shape[0] for shape in gate.shapes] == [1, 1]


def test_who_leaves_halfway_through_its_windows_is_dropped(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    long, _ = submit(batcher, model, picture(0, 28, 7000), tasks=("depth",), window=28, stride=14)
    assert gate.arrived.acquire(timeout=SECONDS)
    assert long.cancel()
    gate.open.set()
    submit(batcher, model, picture(1))[0].result(SECONDS)
    assert len(gate.shapes) == 2


def test_closing_answers_what_waits_and_takes_no_more(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    hold(batcher, model, gate)
    waiting = [submit(batcher, model, picture(seed))[0] for seed in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    gate.open.set()
    closing.join(SECONDS)
    assert not closing.is_alive()
    assert all(future.done() for future in waiting)
    with pytest.raises(Stopped, match="the server is shutting down"):
        submit(batcher, model, picture(9))


def test_two_engines_work_at_the_same_time(bundle: Path) -> None:
    together = threading.Barrier(2)

    def meet(inputs: Values) -> None:
        together.wait(SECONDS)

    models = [observed(bundle, meet), observed(bundle, meet)]
    batcher = Batcher(models, largest=1)
    waiting = [submit(batcher, models[0], picture(seed))[1] for seed in range(2)]
    for seed, arrays in enumerate(waiting):
        same(arrays(), expected(bundle, picture(seed)))
    batcher.close()


def test_many_windows_over_two_engines_give_one_answer_each(bundle: Path) -> None:
    models = [load(bundle, threads=1), load(bundle, threads=1)]
    batcher = Batcher(models, largest=2)
    options: Options = {"tasks": ("depth",), "window": 28, "stride": 14}
    pixels = [picture(seed, 28, 280) for seed in range(8)]
    waiting = [submit(batcher, models[0], each, **options)[1] for each in pixels]
    for each, arrays in zip(pixels, waiting, strict=True):
        same(arrays(), expected(bundle, each, **options))
    batcher.close()


def test_the_times_say_how_long_a_picture_waited_and_ran(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    hold(batcher, model, gate)
    future, _ = submit(batcher, model, picture(0))
    threading.Event().wait(0.1)
    gate.open.set()
    answer = future.result(SECONDS)
    assert answer.queued > 0.09
    assert 0 < answer.ran < answer.queued


def test_every_batch_is_reported(model: Model, gate: Gate) -> None:
    seen: list[tuple[int, float]] = []
    batcher = Batcher([model], largest=4, observe=lambda *batch: seen.append(batch))
    hold(batcher, model, gate)
    waiting = [submit(batcher, model, picture(seed))[0] for seed in range(3)]
    gate.open.set()
    for future in waiting:
        future.result(SECONDS)
    batcher.close()
    assert [views for views, _ in seen] == [1, 3]
    assert all(seconds > 0 for _, seconds in seen)


def test_an_answer_does_not_hold_on_to_the_batch_that_it_came_in(
    batcher: Batcher, model: Model, gate: Gate
) -> None:
    hold(batcher, model, gate)
    futures = [submit(batcher, model, picture(seed))[0] for seed in range(4)]
    gate.open.set()
    for future in futures:
        (view,) = future.result(SECONDS).views
        assert all(array.base is None for array in view.values())


def test_the_request_of_a_picture_is_its_own(batcher: Batcher, model: Model, gate: Gate) -> None:
    hold(batcher, model, gate)
    one = submit(batcher, model, picture(0), tasks=("cls",))[1]
    other = submit(batcher, model, picture(0), tasks=("patches",))[1]
    gate.open.set()
    assert list(one()) == ["cls"]
    assert list(other()) == ["patches"]
