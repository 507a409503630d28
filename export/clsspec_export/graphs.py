"""The graphs of a bundle's backbone: the one for all engines, and those that some run better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.lower import write_lower
from clsspec_export.onnx_graph import export_graph
from clsspec_export.pixels import fold_pixels
from clsspec_export.specialize import Split
from clsspec_export.streams import StreamedBackbone
from clsspec_export.tables import TabledBackbone, fits_tables
from clsspec_serve.bundle import GRAPH, POSITION
from clsspec_serve.choices import Precision
from clsspec_serve.manifest import OF_FP32, Variant
from clsspec_serve.schema import Output

OPENVINO = "model.openvino.onnx"
"""It has the weights of `model.onnx`."""


def write_graphs(
    checkpoint: Checkpoint,
    outputs: Sequence[Output],
    folder: Path,
    precisions: Sequence[Precision] = (),
    pictures: Sequence[Path] = (),
) -> tuple[Variant, ...]:
    """Write `model.onnx`, `position.npy` and what else the returned variants name.

    `precisions`: those that get a graph of their own; `pictures`: what int8 is calibrated on.
    """
    model, storage = checkpoint.model, checkpoint.storage
    embed = fold_pixels(model.patch_embed.proj, checkpoint.preprocessing)
    np.save(folder / POSITION, checkpoint.table.numpy(), allow_pickle=False)
    split = any(isinstance(module, Split) for module in model.blocks.modules())
    streamed = (StreamedBackbone if split else Backbone)(model, outputs, embed)
    export_graph(streamed, folder / GRAPH, storage=storage)
    variants = []
    if split and fits_tables(model):
        tabled = TabledBackbone(model, outputs, embed)
        export_graph(tabled, folder / OPENVINO, storage=storage, weights_of=folder / GRAPH)
        of_openvino = OF_FP32["openvino"]
        variants.append(Variant(graph=OPENVINO, engines=("openvino",), precisions=of_openvino))
    for precision in precisions:
        variants.append(write_lower(streamed, precision, folder, checkpoint, pictures))
    return tuple(variants)
