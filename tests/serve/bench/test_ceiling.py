from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from numpy.typing import NDArray

from clsspec_serve.bench import ceiling as module
from clsspec_serve.bench.ceiling import fastest_products, own_shape
from clsspec_serve.bench.product_graph import Shape
from clsspec_serve.choices import Precision
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.engines.protocol import Values

ARCHITECTURE = tiny.tiny_manifest().architecture.model_copy(update={"mlp": ((8, 32), (32, 8))})
GPU = Gpu(0, "NVIDIA Double")


class Device:
    """Engines that need as long for a graph as its first matrix says, by a clock of their own."""

    def __init__(self, rates: dict[Shape, float], gpu: Gpu | None = None) -> None:
        self.rates, self.gpu = rates, gpu
        self.now = 0.0
        self.loaded: list[Shape] = []
        self.ran: list[Shape] = []

    def clock(self) -> float:
        return self.now

    def load(self, graph: Path) -> Loaded:
        x, a, _ = onnx.load(graph).graph.initializer
        self.loaded.append(Shape(x.dims[0], *a.dims))
        return Loaded(self, self.loaded[-1])


class Loaded:
    name = "onnxruntime"
    precision: Precision = "fp32"

    def __init__(self, device: Device, shape: Shape) -> None:
        self.device, self.shape = device, shape
        self.first = True
        if device.gpu is not None:
            self.gpu = device.gpu

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        self.device.now += self.shape.flops / self.device.rates[self.shape]
        self.device.now += 1000 * self.first
        self.first = False
        self.device.ran.append(self.shape)
        return {name: np.zeros((1, 1), np.float32) for name in outputs}


OWN, SMALL, LARGE, HUGE = Shape(24, 8, 32), *(Shape(side, side, side) for side in (16, 32, 64))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SQUARES", (16, 32, 64))


@pytest.mark.parametrize("best", [OWN, SMALL, LARGE])
def test_the_shape_with_most_operations_in_a_second_is_taken(best: Shape) -> None:
    rates = dict.fromkeys((OWN, SMALL, LARGE, HUGE), 1e8)
    device = Device(rates | {best: 2e8})
    found = fastest_products("onnxruntime", device.load, ARCHITECTURE, OWN.rows, clock=device.clock)
    assert found is not None
    assert (found.shape, found.engine) == (best, "onnxruntime")
    device.ran.clear()
    found.run()
    assert device.ran == [best]


def test_larger_squares_are_not_tried_once_they_take_long() -> None:
    long = LARGE.flops / (1.5 * module.LONG)
    device = Device({OWN: 1.0, SMALL: long, LARGE: long})
    fastest_products("onnxruntime", device.load, ARCHITECTURE, OWN.rows, clock=device.clock)
    assert device.loaded == [OWN, SMALL, LARGE]


def test_where_all_are_short_all_are_tried() -> None:
    device = Device(dict.fromkeys((OWN, SMALL, LARGE, HUGE), 1e12))
    fastest_products("onnxruntime", device.load, ARCHITECTURE, OWN.rows, clock=device.clock)
    assert device.loaded == [OWN, SMALL, LARGE, HUGE]


@pytest.mark.parametrize(("engines", "models"), [(GPU, None), (None, GPU)])
def test_an_engine_on_another_device_has_no_say(engines: Gpu | None, models: Gpu | None) -> None:
    device = Device({}, engines)
    found = fastest_products("onnxruntime", device.load, ARCHITECTURE, 24, gpu=models)
    assert found is None
    assert (device.loaded, device.ran) == ([OWN], [])


def test_an_engine_on_the_same_gpu_has() -> None:
    device = Device(dict.fromkeys((OWN, SMALL, LARGE, HUGE), 1e12), GPU)
    assert fastest_products("cuda", device.load, ARCHITECTURE, 24, gpu=GPU, clock=device.clock)


def test_the_own_shape_is_the_first_product_of_the_mlp_with_a_bound_on_its_rows() -> None:
    assert own_shape(ARCHITECTURE, 100) == (100, 8, 32)
    assert own_shape(ARCHITECTURE, 10**9) == (module.MOST_ROWS, 8, 32)
