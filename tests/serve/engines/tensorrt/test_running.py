"""What a plan is asked to do on a GPU: what crosses, what is allocated, and by whom at once."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from tensorrt_double import Double

from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.engines.tensorrt.memory import Held

from .conftest import NAMES, Inputs, Right


def crossings(double: Double) -> list[str]:
    """What the GPU did since the last time, but for what it allocated."""
    found = [each for each in double.cuda.log if not each.startswith(("malloc", "free"))]
    double.cuda.log.clear()
    return found


def test_outputs_are_those_of_the_graph_and_stay_on_the_gpu(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    given = inputs()
    engine = TensorRtEngine(graph)
    assert (engine.name, engine.precision, str(engine.gpu)) == (
        "tensorrt",
        "fp32",
        "NVIDIA Double 9000 (cuda:0)",
    )
    found = engine.run(given, ["patches_0", "cls"])
    assert crossings(double) == ["up 9408", "up 96", "wait"]
    assert all(isinstance(value, Held) for value in found.values())
    expected = tiny.features(given["pixels"], given["position"])
    assert here(found["cls"]).dtype == np.float32
    np.testing.assert_allclose(here(found["cls"]), expected["cls"], rtol=2e-6)
    assert crossings(double) == ["down 32", "down 32"]


@pytest.mark.parametrize("batch", [1, 2, 7, 8])
def test_all_batches_of_a_size_are_right_whatever_came_before(
    graph: Path, double: Double, inputs: Inputs, right: Right, batch: int
) -> None:
    engine = TensorRtEngine(graph)
    for each in (8, batch, 3, batch):
        right(engine, inputs(each))
    assert double.log.count("build") == 1


def test_what_one_engine_left_on_the_gpu_another_takes_there(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    given = inputs(4)
    one, two = TensorRtEngine(graph), TensorRtEngine(graph)
    # A graph whose output another graph can take: the position, by way of patches.
    left = one.run(given, ["patches"])["patches"]
    assert isinstance(left, Held)
    held = Held(left.block, tiny.POSITIONS.shape, left.dtype)
    position = here(held)
    crossings(double)
    found = two.run(given | {"position": held}, ["patches"])["patches"]
    assert crossings(double) == ["up 18816", "wait"]
    expected = tiny.features(given["pixels"], position)["patches"]
    np.testing.assert_allclose(here(found), expected, rtol=2e-6, atol=1e-4)


def test_an_array_on_another_gpu_goes_by_way_of_this_machine(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    given = inputs()
    left = TensorRtEngine(graph, device=1).run(given, ["patches"])["patches"]
    assert isinstance(left, Held)
    held = Held(left.block, tiny.POSITIONS.shape, left.dtype)
    engine = TensorRtEngine(graph, device=0)
    found = here(engine.run(given | {"position": held}, ["patches"])["patches"])
    expected = tiny.features(given["pixels"], here(held))["patches"]
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-4)


def test_what_is_kept_is_the_array_and_on_the_engines_gpu(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    given = inputs()
    engine = TensorRtEngine(graph, device=1)
    with ThreadPoolExecutor(1) as pool:  # whose thread has never used a GPU
        kept = pool.submit(engine.keep, np.asfortranarray(given["position"])).result()
    assert double.cuda.memory[kept.block.address].device == 1
    np.testing.assert_array_equal(here(kept), given["position"])


def test_arrays_of_any_layout_are_given_as_tensorrt_reads_them(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    given = inputs()
    given["pixels"] = np.asfortranarray(given["pixels"])
    right(TensorRtEngine(graph), given)


def test_outputs_survive_the_next_runs_and_the_engine(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    engine = TensorRtEngine(graph)
    given = inputs(3)
    first = engine.run(given, NAMES)
    for batch in (3, 8, 3):
        engine.run(inputs(batch) | {"pixels": 255 - inputs(batch)["pixels"]}, NAMES)
    del engine
    gc.collect()
    expected = tiny.features(given["pixels"], given["position"])
    for name in NAMES:
        np.testing.assert_allclose(here(first[name]), expected[name], rtol=2e-6, atol=1e-4)
    del first
    gc.collect()
    assert double.cuda.memory == {}
    assert double.cuda.streams == {}


def test_runs_use_the_same_memory_again(graph: Path, double: Double, inputs: Inputs) -> None:
    engine = TensorRtEngine(graph)
    engine.run(inputs(8), NAMES)
    there = len(double.cuda.memory)
    for batch in range(1, 9):
        for _ in range(5):
            engine.run(inputs(batch), NAMES)
    assert len(double.cuda.memory) == there
    assert not any(each.startswith("free") for each in double.cuda.log)


def test_only_as_much_is_allocated_as_is_held(graph: Path, double: Double, inputs: Inputs) -> None:
    engine = TensorRtEngine(graph)
    held = [engine.run(inputs(), ["cls"]) for _ in range(5)]
    there = len(double.cuda.memory)
    held.append(engine.run(inputs(), ["cls"]))
    assert len(double.cuda.memory) == there + 1
    held.clear()
    for _ in range(6):
        held.append(engine.run(inputs(), ["cls"]))
    assert len(double.cuda.memory) == there + 1


def test_all_of_it_is_on_the_gpu_that_was_named(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    double.cuda.architectures[1] = (8, 6)
    engine = TensorRtEngine(graph, device=1)
    for batch in (2, 3):
        with ThreadPoolExecutor(1) as pool:  # whose thread has never used a GPU
            pool.submit(right, engine, inputs(batch)).result()
    assert engine.folder.name.startswith("sm86-")
    held = engine.run(inputs(2, (4, 4)), ["patches"])["patches"]
    assert isinstance(held, Held)
    # All that it takes is there already, so that nothing but the run itself makes use of the GPU.
    given = {
        "pixels": Held(held.block, (1, 4, tiny.PATCH, tiny.PATCH), np.dtype(np.uint8)),
        "position": Held(held.block, (1, 1, tiny.WIDTH), held.dtype),
    }
    engine.run(given, ["cls"])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(engine.run, given, ["cls"]).result()
    assert {memory.device for memory in double.cuda.memory.values()} == {1}
    assert {(stream.device, stream.flags) for stream in double.cuda.streams.values()} == {(1, 1)}


def test_threads_get_their_own_features(graph: Path, double: Double) -> None:
    engine = TensorRtEngine(graph)

    def same(value: int) -> bool:
        batch = value % 5 + 1
        given = {
            "pixels": np.full((batch, 4, *tiny.SIZE), value, np.uint8),
            "position": tiny.POSITIONS,
        }
        return all((here(engine.run(given, ["cls"])["cls"]) == value).all() for _ in range(30))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, range(12)))
    assert 1 <= len(double.cuda.streams) <= 4
    assert double.log.count("build") == 1
    assert double.cuda.log.count("replay") > 20, "some come again, and are right"


def test_two_runs_are_under_way_at_once(
    graph: Path, double: Double, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TensorRtEngine(graph)
    engine.run(inputs(), ["cls"])
    meeting, wait = threading.Barrier(2), double.cuda.cudaStreamSynchronize

    def met(stream: int) -> Any:
        meeting.wait(10)
        return wait(stream)

    monkeypatch.setattr(double.cuda, "cudaStreamSynchronize", met)
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda batch: engine.run(inputs(batch), ["cls"]), (2, 3))]
    for batch, value in zip((2, 3), found, strict=True):
        given = inputs(batch)
        expected = tiny.features(given["pixels"], given["position"])["cls"]
        np.testing.assert_allclose(here(value["cls"]), expected, rtol=2e-6)
