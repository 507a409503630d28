"""The backbone as an ONNX graph: bytes in, features out, any batch and any grid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from onnxscript import ir
from torch import Tensor, nn

from clsspec_export.backbone import Backbone
from clsspec_export.shared_weights import share_weights
from clsspec_export.storage import store_as_fp16
from clsspec_serve.choices import Storage
from clsspec_serve.errors import ExportError
from clsspec_serve.transform import CHANNELS

OPSET = 23
"""The first with the Attention operator, which every runtime's fused kernels start from."""


def export_graph(
    backbone: Backbone, path: Path, *, storage: Storage = "fp32", weights_of: Path | None = None
) -> None:
    """Write `path` and its weights beside it (`path` + `.data`), or those of another graph there.

    Inputs `pixels (B, 4, h * patch, w * patch) uint8` and `position (h, w, C) float32`; outputs as
    `backbone.outputs`. The example has a batch of 3 and a grid that is not square, since the
    exporter takes sizes of 1 and equal sizes for constants. `storage`: fp16 for weights that are
    rounded to it.
    """
    patch = backbone.embed.patch
    example: tuple[Tensor, Tensor] = (
        torch.zeros(3, CHANNELS, 4 * patch, 6 * patch, dtype=torch.uint8),
        torch.zeros(4, 6, backbone.position_width),
    )
    batch, rows, columns = (torch.export.Dim(name) for name in ("batch", "h", "w"))
    write_graph(
        backbone.eval(),
        example,
        path,
        input_names=["pixels", "position"],
        output_names=[output.name for output in backbone.outputs],
        dynamic_shapes=(
            {0: batch, 2: patch * rows, 3: patch * columns},
            {0: rows, 1: columns},
        ),
        external_data=True,
        storage=storage,
        weights_of=weights_of,
    )


def write_graph(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: tuple[Any, ...],
    external_data: bool,
    storage: Storage = "fp32",
    weights_of: Path | None = None,
) -> None:
    """Export any module, without what the exporter notes of this machine.

    `weights_of`: a graph in the same folder, whose weights are referred to where they are equal.
    """
    with warnings.catch_warnings():
        # torch.onnx's own use of deprecated interfaces; nothing a caller could change.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    for node in program.model.graph.all_nodes():
        # The exporter notes its stack traces there: this machine's paths, and half of the file.
        node.metadata_props.clear()
    if storage == "fp16":
        store_as_fp16(program.model.graph)
    if weights_of is not None:
        share_weights(program.model.graph, weights_of)
        ir.save(program.model, path)
    else:
        program.save(path, external_data=external_data)
