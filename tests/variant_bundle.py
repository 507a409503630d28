"""The tiny bundle with graphs for other precisions, of which some compute something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import ModelProto, numpy_helper
from tiny_bundle import tiny_graph

from clsspec_serve.bundle import MANIFEST, Bundle, describe_folder, open_bundle, write_manifest
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.manifest import Manifest, Variant

INT8 = "model.int8.onnx"
Variants = tuple[Variant, ...]
Edit = Callable[[Variants], Variants]


def scaled_graph(**scales: float) -> bytes:
    """The graph with other factors, by the outputs' endings: `_0_raw`, or `default`."""
    model = ModelProto.FromString(tiny_graph())
    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix("scale")
        if tensor.name.startswith("scale") and (name or "default") in scales:
            factor = np.float32(scales[name or "default"])
            tensor.CopyFrom(numpy_helper.from_array(factor, tensor.name))
    return bytes(model.SerializeToString())


def add_variant(
    folder: Path,
    graph: str = INT8,
    engines: tuple[EngineName, ...] = ("onnxruntime", "openvino"),
    precisions: tuple[Precision, ...] = ("int8",),
    content: bytes | None = None,
) -> Bundle:
    """Write one more graph, the same as the first unless given, and list it as the last variant."""
    (folder / graph).write_bytes(tiny_graph() if content is None else content)
    variant = Variant(graph=graph, engines=engines, precisions=precisions)
    return resealed(folder, lambda variants: (*variants, variant))


def resealed(folder: Path, edit: Edit = lambda variants: variants) -> Bundle:
    """The bundle with its files as they are now, and other variants."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    update = {"variants": edit(manifest.variants), "files": describe_folder(folder)}
    write_manifest(folder, manifest.model_copy(update=update))
    return open_bundle(folder)
