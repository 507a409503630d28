"""What an engine reaches on this machine with nothing to do but matrix products."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clsspec_serve.bench.product_graph import INPUT, OUTPUT, Shape, product_graph
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.engines.protocol import Engine, here
from clsspec_serve.manifest import Architecture

Load = Callable[[Path], Engine]

SQUARES = (1024, 2048, 4096, 8192)
"""Sides of the square products, in the order in which they are tried."""
LONG = 0.05
"""Seconds for eight products, from where on larger ones are not tried: the cores are busy."""
MOST_ROWS = 2048
"""Of the products in a model's own widths; more rows make them longer and no faster."""
TRIES = 4


@dataclass(frozen=True)
class Products:
    """The fastest of some shapes on one engine, to be timed beside models."""

    engine: EngineName
    shape: Shape
    run: Callable[[], object]


def fastest_products(
    engine: EngineName,
    load: Load,
    architecture: Architecture,
    rows: int,
    precision: Precision = "fp32",
    *,
    gpu: Gpu | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Products | None:
    """Try squares and the widths of the model's own MLP, at `rows` tokens in a batch.

    `load` gives the engine for a graph, at the precision that the ceiling is for; `precision` is
    the graph's. None where it runs elsewhere than on `gpu`, None for the CPU. Raises `EngineError`
    when it cannot run.
    """
    found = []
    for shape in (own_shape(architecture, rows), *(Shape(side, side, side) for side in SQUARES)):
        loaded = _loaded(load, shape, precision)
        if getattr(loaded, "gpu", None) != gpu:  # engines on the CPU have no such word
            return None
        products = Products(engine, shape, _run(loaded))
        seconds = _best(products.run, clock)
        found.append((shape.flops / seconds, products))
        if seconds > LONG and shape.rows == shape.width == shape.hidden:
            break
    return max(found, key=lambda each: each[0])[1]


def own_shape(architecture: Architecture, rows: int) -> Shape:
    """The first product of the architecture's MLP, for `rows` tokens or the most that count."""
    width, hidden = architecture.mlp[0]
    return Shape(min(rows, MOST_ROWS), width, hidden)


def _loaded(load: Load, shape: Shape, precision: Precision) -> Engine:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "products.onnx"
        file.write_bytes(product_graph(shape, precision))
        return load(file)


def _run(engine: Engine) -> Callable[[], object]:
    inputs = {INPUT: np.ones(1, np.float32)}

    def run() -> object:
        # Its value here: a device may still be at work when an engine returns.
        return here(engine.run(inputs, [OUTPUT])[OUTPUT])

    return run


def _best(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the shortest run but the first, which also sets things up."""
    times = []
    for _ in range(TRIES):
        before = clock()
        run()
        times.append(clock() - before)
    return min(times[1:])
