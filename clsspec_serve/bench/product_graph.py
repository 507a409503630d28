"""An ONNX graph of nothing but matrix products.

Weights are constants of the file, as those of a model are: engines lay constants out for their
kernels when they load a graph, and a product of two inputs would be slower than what the machine
can do. They are random, as a GPU's clock depends on the bits. Almost nothing goes in and comes out:
the largest value of the last product, which depends on all of them, so that copies do not count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.bench.onnx_bytes import model, node, tensor, value
from clsspec_serve.choices import Precision

INPUT, OUTPUT = "scale", "largest"

_PAIRS = 4
_STEPS = 127 / 4
"""Of int8 for one standard deviation: what is beyond four of them is cut off."""


class Shape(NamedTuple):
    """`rows` x `width` times `width` x `hidden`, then times `hidden` x `width`, four times over."""

    rows: int
    width: int
    hidden: int

    @property
    def flops(self) -> int:
        """Of one run: two for each multiply-accumulate."""
        return 2 * _PAIRS * 2 * self.rows * self.width * self.hidden

    def __str__(self) -> str:
        return "x".join(str(side) for side in self)


def product_graph(shape: Shape, precision: Precision = "fp32") -> bytes:
    """The file: `scale (1,) float32` → `largest (1, 1) float32`, at most 2 GB.

    `largest` is the maximum of `scale * X · A · B · A · B · A · B · A · B`, which stays of the
    order of one: the entries of X have variance 1, those of A and B 1 / their rows. In fp16 and
    bf16 the products take and give that; in int8 they take it, quantized as in a bundle's graph.
    """
    generator = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return generator.standard_normal((rows, columns), dtype=np.float32)

    x = matrix(shape.rows, shape.width)
    a = matrix(shape.width, shape.hidden)
    b = matrix(shape.hidden, shape.width)
    parts = _quantized(a, b) if precision == "int8" else _plain(a, b, precision)
    nodes = [node("Mul", ("X", INPUT), "x")]
    ends = [node("ReduceMax", ("y",), OUTPUT)]
    return model(
        [*nodes, *parts[0], *ends],
        [tensor("X", x), *parts[1]],
        value(INPUT, (1,)),
        value(OUTPUT, (1, 1)),
        "products",
    )


Parts = tuple[list[bytes], list[bytes]]
"""Nodes from `x` to `y`, and their constants."""


def _plain(a: NDArray[np.float32], b: NDArray[np.float32], precision: Precision) -> Parts:
    weights = [
        tensor(name, weight * np.float32(len(weight) ** -0.5), precision)
        for name, weight in (("A", a), ("B", b))
    ]
    last = 2 * _PAIRS
    if precision == "fp32":
        names = ["x", *map(str, range(1, last)), "y"]
    else:
        names = [str(index) for index in range(last + 1)]
    nodes = [
        node("MatMul", (names[index], "AB"[index % 2]), names[index + 1]) for index in range(last)
    ]
    if precision != "fp32":
        nodes.insert(0, node("Cast", ("x",), "0", to=precision))
        nodes.append(node("Cast", (str(last),), "y", to="fp32"))
    return nodes, weights


def _quantized(a: NDArray[np.float32], b: NDArray[np.float32]) -> Parts:
    """What goes into a product is quantized and brought back, and so are the weights."""
    weights = [tensor("zero", np.zeros((), np.float32), "int8")]
    weights.append(tensor("step", np.array(1 / _STEPS, np.float32)))
    nodes = []
    for name, weight in (("A", a), ("B", b)):
        steps = np.clip(np.rint(weight * _STEPS), -127, 127)
        scale = np.array(len(weight) ** -0.5 / _STEPS, np.float32)
        weights += [tensor(f"{name}8", steps, "int8"), tensor(f"{name}step", scale)]
        nodes.append(node("DequantizeLinear", (f"{name}8", f"{name}step", "zero"), name))
    names = ["x", *map(str, range(1, 2 * _PAIRS)), "y"]
    for index in range(2 * _PAIRS):
        whole, back = f"{index}.int8", f"{index}.back"
        nodes.append(node("QuantizeLinear", (names[index], "step", "zero"), whole))
        nodes.append(node("DequantizeLinear", (whole, "step", "zero"), back))
        nodes.append(node("MatMul", (back, "AB"[index % 2]), names[index + 1]))
    return nodes, weights
