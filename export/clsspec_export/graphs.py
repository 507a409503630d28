"""The graphs of a bundle's backbone: the one for all engines, and forms that some run faster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.onnx_graph import export_graph
from clsspec_export.pixels import fold_pixels
from clsspec_export.specialize import Split
from clsspec_export.streams import StreamedBackbone
from clsspec_export.tables import TabledBackbone, fits_tables
from clsspec_serve.bundle import GRAPH, POSITION
from clsspec_serve.manifest import OF_FP32, Variant
from clsspec_serve.schema import Output

OPENVINO = "model.openvino.onnx"
"""It has the weights of `model.onnx`."""


def write_graphs(
    checkpoint: Checkpoint, outputs: Sequence[Output], folder: Path
) -> tuple[Variant, ...]:
    """Write `model.onnx`, `position.npy` and what else the returned variants name."""
    model, storage = checkpoint.model, checkpoint.storage
    embed = fold_pixels(model.patch_embed.proj, checkpoint.preprocessing)
    np.save(folder / POSITION, checkpoint.table.numpy(), allow_pickle=False)
    split = any(isinstance(module, Split) for module in model.blocks.modules())
    form = StreamedBackbone if split else Backbone
    export_graph(form(model, outputs, embed), folder / GRAPH, storage=storage)
    if not (split and fits_tables(model)):
        return ()
    tabled = TabledBackbone(model, outputs, embed)
    export_graph(tabled, folder / OPENVINO, storage=storage, weights_of=folder / GRAPH)
    return (Variant(graph=OPENVINO, engines=("openvino",), precisions=OF_FP32["openvino"]),)
