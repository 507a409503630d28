"""Which plan an input goes to, and when no more are made."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorrt_double import Double

from clsspec_serve.engines.tensorrt.buckets import Bucket, bucket_of
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine
from clsspec_serve.errors import EngineError

from .conftest import Inputs, Right


def of(batch: int, largest: int = 8) -> Bucket:
    return bucket_of({"pixels": (batch, 4, 28, 42), "position": (2, 3, 384)}, largest)


def test_a_bucket_is_a_size_and_its_batches() -> None:
    bucket = of(3)
    assert bucket == Bucket((("pixels", (4, 28, 42)), ("position", (2, 3, 384))), 8)
    assert bucket.shapes(5) == {"pixels": (5, 4, 28, 42), "position": (2, 3, 384)}
    assert str(bucket) == "pixels 4x28x42, position 2x3x384 in batches of 1 to 8"
    assert bucket.label == "4x28x42-b8"
    assert bucket_of({"position": (2, 3, 384), "pixels": (1, 4, 28, 42)}, 8) == bucket


def test_a_larger_batch_goes_to_the_next_power_of_two_whatever_came_before() -> None:
    assert [of(batch).largest for batch in (1, 8, 9, 16, 17, 64, 65)] == [8, 8, 16, 16, 32, 64, 128]
    assert [of(batch, 48).largest for batch in (1, 48, 49)] == [48, 48, 64]
    assert of(3, 1).largest == 4


def test_inputs_of_a_head_are_a_batch_each() -> None:
    bucket = bucket_of({"patches": (2, 37, 37, 384), "cls": (2, 384)}, 8)
    assert bucket.shapes(1) == {"cls": (1, 384), "patches": (1, 37, 37, 384)}
    assert bucket.label == "37x37x384-b8"


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"patches": (2, 3, 3, 4), "cls": (3, 4)}, "patches 2x3x3x4, cls 3x4"),
        ({"pixels": (0, 4, 28, 42)}, "pixels 0x4x28x42"),
        ({"position": (2, 3, 4)}, "position 2x3x4"),
        ({"cls": ()}, "cls ()"),
        ({}, "none"),
    ],
)
def test_inputs_that_are_no_batch_are_refused(
    shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(EngineError) as info:
        bucket_of(shapes, 8)
    assert str(info.value) == f"tensorrt failed: these are no inputs of one batch: {words}"


def test_each_size_has_a_plan_of_its_own_until_there_are_too_many(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    engine = TensorRtEngine(graph, sizes=3)
    assert engine.plans == ()
    for grid in ((2, 3), (3, 2), (1, 4), (3, 2)):
        right(engine, inputs(2, grid))
    assert [plan.bucket.label for plan in engine.plans] == [
        "4x28x42-b8",
        "4x42x28-b8",
        "4x14x56-b8",
    ]
    for _ in range(2):
        with pytest.raises(EngineError) as info:
            engine.run(inputs(2, (4, 4)), ["cls"])
    assert str(info.value) == (
        "tensorrt makes plans of model.onnx for 3 sizes at most: got pixels 4x56x56, position "
        "4x4x4 in batches of 1 to 8, accepted are pixels 4x28x42, position 2x3x4 in batches of 1 "
        "to 8; pixels 4x42x28, position 3x2x4 in batches of 1 to 8; pixels 4x14x56, position "
        "1x4x4 in batches of 1 to 8; --resize squash gives all pictures "
        "one size"
    )
    right(engine, inputs(8, (1, 4)))
    assert double.log.count("build") == 3


def test_a_larger_batch_gets_a_plan_that_smaller_ones_do_not_use(
    graph: Path, double: Double, inputs: Inputs, right: Right
) -> None:
    engine = TensorRtEngine(graph)
    for batch in (11, 2, 16, 8):
        right(engine, inputs(batch))
    assert [plan.bucket.largest for plan in engine.plans] == [16, 8]


def test_what_failed_counts_as_a_size_and_is_not_tried_again(
    graph: Path, double: Double, inputs: Inputs
) -> None:
    double.cannot_build = "no implementation"
    engine = TensorRtEngine(graph, sizes=2)
    for grid in ((2, 3), (3, 2), (2, 3)):
        with pytest.raises(EngineError, match=r": no implementation$"):
            engine.run(inputs(2, grid), ["cls"])
    assert len(double.networks) == 2
    with pytest.raises(EngineError, match=r"accepted are none; --resize"):
        engine.run(inputs(2, (1, 1)), ["cls"])
