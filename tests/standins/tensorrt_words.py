"""What TensorRT's bindings are made of: enumerations, layers, and the logger of ours."""

from __future__ import annotations

from enum import IntEnum

import onnx


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3


class ILogger:
    """What a logger of ours is derived from; its `__init__` has to be called."""

    INTERNAL_ERROR, ERROR, WARNING, INFO = Severity
    begun = False

    def __init__(self) -> None:
        self.begun = True

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    UINT8 = 5
    BF16 = 7


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ProfilingVerbosity(IntEnum):
    LAYER_NAMES_ONLY = 0
    NONE = 1
    DETAILED = 2


class LayerInformationFormat(IntEnum):
    ONELINE = 0
    JSON = 1


class HostMemory:
    """Bytes that TensorRT owns."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content


class LayerType(IntEnum):
    CONSTANT = 19
    ATTENTION_INPUT = 51
    ATTENTION_OUTPUT = 52


class IAttention:
    def __init__(self, element: int) -> None:
        self.element = element
        self.decomposable = False


class ILayer:
    """What the bindings give for any layer, unless its class is set to its own."""

    def __init__(self, kind: LayerType, attention: IAttention | None = None) -> None:
        self.type, self._attention = kind, attention


class IAttentionInputLayer(ILayer):
    @property
    def attention(self) -> IAttention | None:
        return self._attention


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each tensor that is known."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.output, *graph.input]
    return {each.name: each.type.tensor_type.elem_type for each in values}
