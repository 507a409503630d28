"""A second graph of a model, without a second copy of its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnxscript import ir

Key = tuple[ir.DataType, tuple[int, ...], bytes]


def share_weights(graph: ir.Graph, other: Path) -> None:
    """Point at what the file `other` keeps beside it wherever an initializer is the same, bytewise.

    The graph has to be saved in the same folder.
    """
    stored = ir.load(other).graph.initializers.values()
    tensors = (value.const_value for value in stored)
    kept = {_key(each): each for each in tensors if isinstance(each, ir.ExternalTensor)}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and (found := kept.get(_key(tensor))) is not None:
            value.const_value = ir.ExternalTensor(
                found.location,
                found.offset,
                found.length,
                found.dtype,
                shape=found.shape,
                name=str(value.name),
                base_dir=other.parent,
            )


def _key(tensor: ir.TensorProtocol) -> Key:
    return tensor.dtype, tuple(tensor.shape.numpy()), hashlib.sha256(tensor.tobytes()).digest()
