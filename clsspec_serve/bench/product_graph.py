"""An ONNX graph of nothing but matrix products, written here byte by byte.

The package that writes ONNX files is only in `[export]`, and this graph is four kinds of nodes. It
is protobuf, whose fields' numbers are those of `onnx.proto`
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).

Weights are constants of the file, as those of a model are: engines lay constants out for their
kernels when they load a graph, and a product of two inputs would be slower than what the machine
can do. They are random, as a GPU's clock depends on the bits. Almost nothing goes in and comes out:
the largest value of the last product, which depends on all of them, so that copies do not count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

INPUT, OUTPUT = "scale", "largest"

_IR_VERSION, _OPSET = 10, 18
_FLOAT = 1
_PAIRS = 4


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


def product_graph(shape: Shape) -> bytes:
    """The file: `scale (1,) float32` → `largest (1, 1) float32`, at most 2 GB.

    `largest` is the maximum of `scale * X · A · B · A · B · A · B · A · B`, which stays of the
    order of one: the entries of X have variance 1, those of A and B 1 / their rows.
    """
    generator = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, scale: float) -> bytes:
        values = generator.standard_normal((rows, columns), dtype=np.float32)
        return _tensor(name, values * np.float32(scale))

    weights = [
        matrix("X", shape.rows, shape.width, 1),
        matrix("A", shape.width, shape.hidden, shape.width**-0.5),
        matrix("B", shape.hidden, shape.width, shape.hidden**-0.5),
    ]
    nodes = [_node("Mul", ("X", INPUT), "0")]
    for index in range(2 * _PAIRS):
        nodes.append(_node("MatMul", (str(index), "AB"[index % 2]), str(index + 1)))
    nodes.append(_node("ReduceMax", (str(2 * _PAIRS),), OUTPUT))
    graph = b"".join(
        [
            *(_bytes(1, node) for node in nodes),
            _text(2, "products"),
            *(_bytes(5, weight) for weight in weights),
            _bytes(11, _value(INPUT, (1,))),
            _bytes(12, _value(OUTPUT, (1, 1))),
        ]
    )
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _node(operator: str, inputs: tuple[str, ...], output: str) -> bytes:
    names = b"".join(_text(1, name) for name in inputs)
    return names + _text(2, output) + _text(4, operator)


def _tensor(name: str, values: NDArray[np.float32]) -> bytes:
    sides = b"".join(_number(1, side) for side in values.shape)
    content = values.astype("<f4").tobytes()
    return sides + _number(2, _FLOAT) + _text(8, name) + _bytes(9, content)


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    sides = b"".join(_bytes(1, _number(1, side)) for side in shape)
    tensor = _number(1, _FLOAT) + _bytes(2, sides)
    return _text(1, name) + _bytes(2, _bytes(1, tensor))


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
