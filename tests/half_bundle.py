"""The bundle of `head_bundle` with graphs in bf16 and fp16 for TensorRT, on its double."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from head_bundle import classify_head, depth_head, nearest_colour_head, write_head_bundle
from onnx import ModelProto, TensorProto, helper
from tiny_bundle import tiny_graph

from clsspec_serve.choices import Precision
from clsspec_serve.manifest import Variant

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
CLASSES = ["dark", "bright"]
HEADS = (
    nearest_colour_head(COLOURS),
    depth_head([0.01, 0, 0, 0]),
    classify_head(CLASSES, np.eye(4)[:, :2], np.zeros(2)),
)
HALVES: tuple[Precision, ...] = ("bf16", "fp16")


def write_half_bundle(folder: Path) -> Path:
    """`model-bf16.onnx` is the graph as it is; in `model-fp16.onnx` patches go through fp16."""
    folder.mkdir()
    (folder / "model-bf16.onnx").write_bytes(tiny_graph())
    (folder / "model-fp16.onnx").write_bytes(_halved())
    variants = tuple(
        Variant(graph=f"model-{each}.onnx", engines=("tensorrt",), precisions=(each,))
        for each in HALVES
    )
    return write_head_bundle(folder, HEADS, variants=variants)


def _halved() -> bytes:
    model = ModelProto.FromString(tiny_graph())
    (place,) = (i for i, node in enumerate(model.graph.node) if node.op_type == "Add")
    model.graph.node[place].output[0] = "whole"
    for offset, (given, made, kind) in enumerate(
        (("whole", "half", TensorProto.FLOAT16), ("half", "placed", TensorProto.FLOAT))
    ):
        model.graph.node.insert(
            place + 1 + offset, helper.make_node("Cast", [given], [made], to=kind)
        )
    return bytes(model.SerializeToString())
