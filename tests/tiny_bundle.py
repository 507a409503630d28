"""A bundle whose graph is arithmetic on pixels: whole, written in milliseconds, without torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from clsspec_serve.bundle import (
    GRAPH,
    POSITION,
    REFERENCE,
    describe_folder,
    write_manifest,
)
from clsspec_serve.manifest import (
    Architecture,
    LearnedPosition,
    Manifest,
    Preprocessing,
    Provenance,
)
from clsspec_serve.parity import Sample, save_samples
from clsspec_serve.schema import Output

PATCH = 14
WIDTH = 4
GRID = (2, 3)
SIZE = (GRID[0] * PATCH, GRID[1] * PATCH)
POSITIONS = np.linspace(-1, 1, GRID[0] * GRID[1] * WIDTH, dtype=np.float32).reshape(*GRID, WIDTH)

SCALES = {"": 1.0, "_0": 2.0, "_0_raw": 3.0}
"""What each layer multiplies the features by: block 1, block 0, and block 0 without the norm."""


def features(pixels: NDArray[np.uint8], position: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What the graph computes, in NumPy: the mean of each patch plus its position, and of all."""
    batch, channels, height, width = pixels.shape
    blocks = pixels.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    patches = blocks.mean((3, 5)).transpose(0, 2, 3, 1) + position
    cls = pixels.mean((2, 3))
    values = {
        f"{kind}{suffix}": value * scale
        for suffix, scale in SCALES.items()
        for kind, value in (("cls", cls), ("patches", patches))
    }
    return {name: value.astype(np.float32) for name, value in values.items()}


@cache
def tiny_graph() -> bytes:
    """The ONNX file; inputs and outputs are named and shaped as those of a real backbone."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(
            "AveragePool",
            ["floats"],
            ["means"],
            kernel_shape=[PATCH, PATCH],
            strides=[PATCH, PATCH],
        ),
        helper.make_node("Transpose", ["means"], ["tokens"], perm=[0, 2, 3, 1]),
        helper.make_node("Add", ["tokens", "position"], ["placed"]),
        helper.make_node("ReduceMean", ["floats", "sides"], ["mean"], keepdims=0),
    ]
    constants = [numpy_helper.from_array(np.array([2, 3]), "sides")]
    outputs = []
    for suffix, scale in SCALES.items():
        constants.append(numpy_helper.from_array(np.float32(scale), f"scale{suffix}"))
        nodes += [
            helper.make_node("Mul", ["mean", f"scale{suffix}"], [f"cls{suffix}"]),
            helper.make_node("Mul", ["placed", f"scale{suffix}"], [f"patches{suffix}"]),
        ]
        outputs += [
            _float(f"cls{suffix}", ["batch", WIDTH]),
            _float(f"patches{suffix}", ["batch", "h", "w", WIDTH]),
        ]
    pixels = helper.make_tensor_value_info(
        "pixels", TensorProto.UINT8, ["batch", 4, "height", "width"]
    )
    position = _float("position", ["h", "w", WIDTH])
    graph = helper.make_graph(nodes, "tiny", [pixels, position], outputs, constants)
    opset = [helper.make_opsetid("", 20)]
    model: ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return model.SerializeToString()


def save_with_external_weights(path: Path) -> None:
    """The same graph with its factors in `path` + `.data`."""
    model = ModelProto.FromString(tiny_graph())
    for tensor in model.graph.initializer:
        if tensor.name.startswith("scale"):
            set_external_data(tensor, location=f"{path.name}.data")
    onnx.save(model, path)


def write_tiny_bundle(folder: Path) -> Path:
    """Write the bundle, with a head and a model card that no engine can read."""
    (folder / "heads").mkdir(parents=True)
    (folder / GRAPH).write_bytes(tiny_graph())
    (folder / "heads" / "segment.onnx").write_bytes(b"never opened by an engine")
    (folder / "README.md").write_text("# tiny\n")
    np.save(folder / POSITION, POSITIONS)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (1, 4, *SIZE), np.uint8)
    save_samples([Sample(pixels, features(pixels, POSITIONS))], folder / REFERENCE)
    write_manifest(folder, tiny_manifest().model_copy(update={"files": describe_folder(folder)}))
    return folder


def tiny_manifest() -> Manifest:
    """The manifest, without files."""
    return Manifest(
        name="tiny",
        architecture=Architecture(
            name="tiny",
            family="vit",
            embed_dim=WIDTH,
            depth=2,
            num_heads=1,
            mlp=((WIDTH, WIDTH), (WIDTH, WIDTH)),
            patch_size=PATCH,
            registers=0,
            final_norm=True,
            parameters=1,
        ),
        preprocessing=Preprocessing(
            size=SIZE,
            policy="squash",
            interpolation="bilinear",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        position=LearnedPosition(grid=GRID, antialias=False),
        outputs=tuple(
            Output(name=f"{kind}{suffix}", kind=kind, layer=layer, norm=norm)
            for suffix, layer, norm in (("", 1, True), ("_0", 0, True), ("_0_raw", 0, False))
            for kind in ("cls", "patches")
        ),
        provenance=Provenance(source="tests", format="arithmetic", versions={}),
        parity=(),
        files={},
    )


def _float(name: str, shape: list[str | int]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
