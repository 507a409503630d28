"""Weights kept on disk in half precision; what is computed with them stays fp32.

First the checkpoint is rounded, so that everything measured afterwards has the same weights. Then
whatever half precision holds exactly is stored in it, which changes no value.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from onnxscript import ir
from torch import Tensor

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import LearnedPosition

LARGEST = torch.finfo(torch.float16).max

LEAST_VALUES = 1_000
"""Smaller tensors stay float32: a Cast for each would take what it saves."""


@torch.no_grad()
def round_to_fp16(checkpoint: Checkpoint) -> Checkpoint:
    """Round the model's matrices, kernels, tokens and positions to fp16 and back, in place.

    Vectors keep all their bits: norms, biases and LayerScale are less than a hundredth of a model,
    and LayerScale goes down to where fp16 is coarse (below 6e-5). So do rotary periods. Raises
    `UsageError` naming the first tensor that is beyond fp16; the model is then as it was.
    """
    matrices = {
        name: parameter
        for name, parameter in checkpoint.model.named_parameters()
        if parameter.ndim > 1
    }
    for name, parameter in matrices.items():
        largest = float(parameter.abs().max())
        if largest > LARGEST:
            raise UsageError(
                f"{name} holds values up to {largest:g}, fp16 up to {LARGEST:g}; "
                "accepted for this checkpoint is --storage fp32"
            )
    for parameter in matrices.values():
        parameter.copy_(_rounded(parameter))
    table = checkpoint.table
    if isinstance(checkpoint.position, LearnedPosition):
        table = _rounded(table)
    return replace(checkpoint, table=table, storage="fp16")


def store_as_fp16(graph: ir.Graph) -> None:
    """Turn each large float32 initializer that fp16 holds exactly into a float16 one and a Cast.

    What is computed from the weights, such as the folded patch embedding, mostly is not exact in
    fp16 and stays as it is. Runtimes do the Casts once, when they load the graph.
    """
    for value in [*graph.initializers.values()]:
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < LEAST_VALUES:
            continue
        whole = tensor.numpy()
        with np.errstate(over="ignore"):  # infinity is not equal
            half = whole.astype(np.float16)
        if np.array_equal(half.astype(np.float32), whole):
            _store(graph, value, half)


def _store(graph: ir.Graph, value: ir.Value, half: NDArray[np.float16]) -> None:
    name = value.name
    stored = ir.val(f"{name}.fp16", const_value=ir.tensor(half, name=f"{name}.fp16"))
    cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT}, name=f"{name}.fp32")
    graph.insert_before(graph[0], cast)
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])
    del graph.initializers[str(name)]
    cast.outputs[0].name = name
    graph.register_initializer(stored)


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.half().float()
