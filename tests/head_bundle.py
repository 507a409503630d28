"""Bundles with heads, small enough to be worked out by hand.

The backbone is that of `tiny_bundle` without positions: a patch's feature is the mean of its pixels
in 0..255 by channel, red, green, blue and coverage; [CLS] is that of the whole input. Each head is
one product with a matrix and one sum, so that its answers are known from colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tiny_bundle import GRID, PATCH, SIZE, WIDTH, tiny_graph, tiny_manifest

from clsspec_serve.bundle import GRAPH, HEADS, POSITION, describe_folder, write_manifest
from clsspec_serve.choices import Feature
from clsspec_serve.heads import (
    AnyHead,
    Category,
    ClassificationHead,
    DepthHead,
    Protocol,
    SegmentationHead,
    Source,
)
from clsspec_serve.schema import Output

SOURCE = Source(name="tests", format="arithmetic")
WHOLE = Protocol(size=(SIZE[0], SIZE[0]), policy="short")
"""All of the picture at once, its short side in two patches; 28 pixels are not resampled."""

Values = Sequence[float] | NDArray[Any]


@dataclass(frozen=True)
class HeadGraph:
    """What a manifest says of a head, and its ONNX file."""

    description: AnyHead
    graph: bytes


def write_head_bundle(folder: Path, heads: Sequence[HeadGraph] = (), **manifest: Any) -> Path:
    """Write a bundle with these heads; `manifest` replaces fields of `tiny_manifest`."""
    (folder / HEADS).mkdir(parents=True)
    (folder / GRAPH).write_bytes(tiny_graph())
    np.save(folder / POSITION, np.zeros((*GRID, WIDTH), np.float32))
    for head in heads:
        (folder / HEADS / f"{head.description.task}.onnx").write_bytes(head.graph)
    described = {"heads": tuple(head.description for head in heads)}
    changes = {**described, **manifest, "files": describe_folder(folder)}
    write_manifest(folder, tiny_manifest().model_copy(update=changes))
    return folder


def segment_head(
    classes: Sequence[Category], weight: Values, bias: Values, protocol: Protocol = WHOLE
) -> HeadGraph:
    """Logits: patches times `weight` (4, K) plus `bias` (K,)."""
    description = SegmentationHead(
        inputs=_inputs("patches"), protocol=protocol, source=SOURCE, classes=tuple(classes)
    )
    return HeadGraph(description, _linear("patches", "segment", weight, bias))


def nearest_colour_head(
    colours: Mapping[str, tuple[int, int, int]], protocol: Protocol = WHOLE
) -> HeadGraph:
    """The class whose colour is nearest: 2 c·x - |c|², as |x|² is the same for all of them."""
    own = np.asarray(list(colours.values()), float).T
    weight = np.vstack([2 * own, np.zeros((1, own.shape[1]))])
    classes = [Category(name=name, colour=colour) for name, colour in colours.items()]
    return segment_head(classes, weight, -(own**2).sum(axis=0), protocol)


def classify_head(
    classes: Sequence[str], weight: Values, bias: Values, protocol: Protocol = WHOLE
) -> HeadGraph:
    """Logits: [CLS] times `weight` (4, K) plus `bias` (K,)."""
    description = ClassificationHead(
        inputs=_inputs("cls"), protocol=protocol, source=SOURCE, classes=tuple(classes)
    )
    return HeadGraph(description, _linear("cls", "classify", weight, bias))


def depth_head(
    weight: Values,
    bias: float = 0,
    *,
    minimum: float = 0.001,
    maximum: float = 10,
    protocol: Protocol = WHOLE,
) -> HeadGraph:
    """Metres: patches times `weight` (4,) plus `bias`, clamped to the range."""
    description = DepthHead(
        inputs=_inputs("patches"),
        protocol=protocol,
        source=SOURCE,
        minimum=minimum,
        maximum=maximum,
        method="regression",
    )
    weights = np.asarray(weight, np.float32).reshape(WIDTH)
    return HeadGraph(description, _linear("patches", "depth", weights, bias, (minimum, maximum)))


def patch_means(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The backbone's features of an `(H, W, 3)` picture: `(h, w, 4)`.

    The picture is padded to whole patches, in the middle, the odd pixel right or below.
    """
    height, width = (-side % PATCH for side in pixels.shape[:2])
    around = ((height // 2, height - height // 2), (width // 2, width - width // 2), (0, 0))
    covered = np.concatenate([pixels, np.ones((*pixels.shape[:2], 1), np.uint8)], axis=2)
    padded = np.pad(covered, around).astype(np.float64)
    rows, columns = padded.shape[0] // PATCH, padded.shape[1] // PATCH
    return padded.reshape(rows, PATCH, columns, PATCH, 4).mean(axis=(1, 3))


def _inputs(kind: Feature) -> tuple[Output, ...]:
    return (Output(name=kind, kind=kind, layer=1, norm=True),)


def _linear(
    taken: str,
    given: str,
    weight: Values,
    bias: Values | float,
    clamp: tuple[float, float] | None = None,
) -> bytes:
    axes: list[str | int] = ["batch", "h", "w"] if taken == "patches" else ["batch"]
    matrix, offset = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    nodes = [
        helper.make_node("MatMul", [taken, "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], [given if clamp is None else "sum"]),
    ]
    constants = {"weight": matrix, "bias": offset}
    if clamp is not None:
        constants |= {"low": np.float32(clamp[0]), "high": np.float32(clamp[1])}
        nodes.append(helper.make_node("Clip", ["sum", "low", "high"], [given]))
    graph = helper.make_graph(
        nodes,
        given,
        [helper.make_tensor_value_info(taken, TensorProto.FLOAT, [*axes, WIDTH])],
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, [*axes, *matrix.shape[1:]])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return bytes(model.SerializeToString())
