"""TensorRT 10 and 11 as `tensorrt_double` has them, and that all of a GPU is given back."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from tensorrt_double import VERSIONS, Double, install

from clsspec_serve.engines.protocol import here
from clsspec_serve.engines.tensorrt.engine import TensorRtEngine

Inputs = Callable[..., dict[str, Any]]
Right = Callable[..., None]

NAMES = ["cls", "patches", "patches_0"]
"""Three of the outputs of the tiny graph."""
NAME = "model-fp32-4x28x42-b8-nvidia-double-9000"
"""Of the plan that `kept` builds."""


@pytest.fixture(params=VERSIONS, ids=["10", "11"])
def double(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, own_garbage: None
) -> Iterator[Double]:
    double = install(request.param, put=monkeypatch.setattr, put_module=monkeypatch.setitem)
    yield double
    if double.cuda.memory or double.cuda.pinned:
        gc.collect()
    assert double.cuda.misuses == []
    left = (double.cuda.memory, double.cuda.streams, double.cuda.graphs, double.cuda.pinned)
    assert left == ({}, {}, {}, {}), "not all was given back"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Of a bundle's folder, which is all that there is of it."""
    path = tmp_path / "bundle" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(tiny.tiny_graph())
    return path


@pytest.fixture
def inputs() -> Inputs:
    """Inputs of the tiny graph."""

    def made(batch: int = 2, grid: tuple[int, int] = tiny.GRID) -> dict[str, Any]:
        numbers = np.random.default_rng(batch)
        sides = [side * tiny.PATCH for side in grid]
        return {
            "pixels": numbers.integers(0, 256, (batch, 4, *sides), np.uint8),
            "position": numbers.standard_normal((*grid, tiny.WIDTH), np.float32),
        }

    return made


@pytest.fixture
def right() -> Right:
    """Whether an engine computes what the graph says."""

    def check(engine: TensorRtEngine, given: dict[str, Any]) -> None:
        expected = tiny.features(given["pixels"], given["position"])
        found = engine.run(given, ["patches_0", "cls"])
        assert list(found) == ["patches_0", "cls"]
        for name, value in found.items():
            assert value.shape == expected[name].shape
            # Far less than TF32's difference.
            np.testing.assert_allclose(here(value), expected[name], rtol=2e-6, atol=1e-4)

    return check


def built(double: Double) -> int:
    return double.log.count("build")


def folder(graph: Path, double: Double) -> Path:
    return graph.parent / "engines" / f"sm90-trt{double.__version__}"


@pytest.fixture
def kept(graph: Path, double: Double, inputs: Inputs) -> Path:
    """The manifest of a plan that was built."""
    TensorRtEngine(graph).run(inputs(), ["cls"])
    return folder(graph, double) / f"{NAME}.json"
