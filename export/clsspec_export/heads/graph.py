"""A head as an ONNX graph of its own, fed by the backbone's outputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.modules import module
from clsspec_export.onnx_graph import write_graph
from clsspec_serve.bundle import HEADS
from clsspec_serve.manifest import Architecture


def add_head(head: LinearHead, architecture: Architecture, bundle: Path) -> None:
    """Write the head's graph where a bundle has it."""
    path = bundle / HEADS / f"{head.description.task}.onnx"
    path.parent.mkdir(exist_ok=True)
    export_head(head, architecture.embed_dim, path)


def export_head(head: LinearHead, width: int, path: Path) -> None:
    """Write `path`: inputs by the names of the backbone's outputs, one output named by the task.

    `width`: D. Batch and grid are dynamic.
    """
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "h", "w"))
    inputs = head.description.inputs
    example: list[Tensor] = []
    dynamic = []
    for output in inputs:
        of_patches = output.kind == "patches"
        example.append(torch.zeros(3, 4, 6, width) if of_patches else torch.zeros(3, width))
        dynamic.append({0: batch, 1: rows, 2: columns} if of_patches else {0: batch})
    write_graph(
        module(head).eval(),
        tuple(example),
        path,
        input_names=[output.name for output in inputs],
        output_names=[head.description.task],
        # torch.export sees the inputs of a variadic forward as one tuple.
        dynamic_shapes=(tuple(dynamic),),
        external_data=False,
    )
