"""The few parts of an ONNX file that a graph of products needs, written byte by byte.

The package that writes ONNX files is only in `[export]`. It is protobuf, whose fields' numbers are
those of `onnx.proto` (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Type = Literal["fp32", "int8", "fp16", "bf16"]
NUMBERS: dict[Type, int] = {"fp32": 1, "int8": 3, "fp16": 10, "bf16": 16}
"""Of `TensorProto.DataType`."""

_IR_VERSION, _OPSET = 10, 18
_INTEGER = 2  # of AttributeProto.AttributeType


def model(
    nodes: Iterable[bytes], weights: Iterable[bytes], given: bytes, found: bytes, name: str
) -> bytes:
    """The file, at most 2 GB; `given` and `found` are values."""
    graph = b"".join(
        [
            *(_bytes(1, each) for each in nodes),
            _text(2, name),
            *(_bytes(5, each) for each in weights),
            _bytes(11, given),
            _bytes(12, found),
        ]
    )
    opset = _text(1, "") + _number(2, _OPSET)
    return _number(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def node(operator: str, inputs: Iterable[str], output: str, *, to: Type | None = None) -> bytes:
    """`to`: the type of a Cast."""
    names = b"".join(_text(1, name) for name in inputs)
    content = names + _text(2, output) + _text(4, operator)
    if to is None:
        return content
    return content + _bytes(5, _text(1, "to") + _number(3, NUMBERS[to]) + _number(20, _INTEGER))


def tensor(name: str, values: NDArray[np.float32], kind: Type = "fp32") -> bytes:
    """Values of that type, to the nearest; bf16 is the upper half of a float32, not rounded."""
    sides = b"".join(_number(1, side) for side in values.shape)
    if kind == "bf16":
        content = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        content = values.astype({"fp32": "<f4", "fp16": "<f2", "int8": "i1"}[kind]).tobytes()
    return sides + _number(2, NUMBERS[kind]) + _text(8, name) + _bytes(9, content)


def value(name: str, shape: tuple[int, ...]) -> bytes:
    """What goes in or comes out, float32."""
    sides = b"".join(_bytes(1, _number(1, side)) for side in shape)
    kind = _number(1, NUMBERS["fp32"]) + _bytes(2, sides)
    return _text(1, name) + _bytes(2, _bytes(1, kind))


def _text(field: int, content: str) -> bytes:
    return _bytes(field, content.encode())


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, number: int) -> bytes:
    return _varint(field << 3) + _varint(number)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
