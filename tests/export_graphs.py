"""What a backbone's graph computes, on an engine, beside what PyTorch does; and a look into it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from export_helpers import network_input
from onnx import GraphProto, ModelProto, NodeProto

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.reference import Reference
from clsspec_serve.choices import EngineName
from clsspec_serve.engines.select import load_engine
from clsspec_serve.parity import Difference, compare
from clsspec_serve.position import position_map
from clsspec_serve.schema import Output

Outputs = tuple[Output, ...]
Size = tuple[int, int]
Weight = tuple[int, list[int]]


def shown(checkpoint: Checkpoint, batch: int, grid: Size) -> dict[str, np.ndarray]:
    """A graph's inputs: random bytes, the last row and column of pixels not covered."""
    patch = checkpoint.model.patch_embed.proj.kernel_size[0]
    pixels = np.concatenate(
        [network_input(grid[0] * patch, grid[1] * patch, seed) for seed in range(batch)]
    )[:batch]
    pixels[:, :, -1] = pixels[:, :, :, -1] = 0
    position = position_map(checkpoint.position, checkpoint.table.numpy(), grid)
    return {"pixels": pixels, "position": position}


def differences(
    checkpoint: Checkpoint,
    outputs: Outputs,
    graph: Path,
    engine: EngineName,
    *,
    batch: int = 2,
    grid: Size = (3, 5),
    precision: Any = "fp32",
) -> list[Difference]:
    """Of every output to PyTorch's."""
    inputs = shown(checkpoint, batch, grid)
    expected = Reference(checkpoint, outputs).sample(inputs["pixels"]).outputs
    loaded = load_engine(graph, engine=engine, precision=precision, threads=1)
    found = loaded.run(inputs, [*expected])
    return [compare(name, grid, np.asarray(found[name]), expected[name]) for name in expected]


def lowest_cosine(*args: Any, **kwargs: Any) -> float:
    return min(each.cosine for each in differences(*args, **kwargs))


def proto(graph: Path) -> ModelProto:
    return onnx.load(graph, load_external_data=False)


def types(graph: Path) -> dict[str, int]:
    """The element type of every value of a graph, by its name."""
    inferred = onnx.shape_inference.infer_shapes(proto(graph), strict_mode=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {each.name: each.data_type for each in inferred.initializer}


def weights(graph: GraphProto) -> dict[str, Weight]:
    """The type and shape of every initializer, by its name."""
    return {each.name: (each.data_type, list(each.dims)) for each in graph.initializer}


def products(graph: GraphProto) -> list[NodeProto]:
    return [node for node in graph.node if node.op_type == "MatMul"]


def edited(folder: Path, name: str, to: Path, change: Callable[[GraphProto], None]) -> Path:
    """A copy of a folder of graphs where one of them is changed."""
    shutil.copytree(folder, to)
    model = proto(to / name)
    change(model.graph)
    (to / name).write_bytes(model.SerializeToString())
    return to
