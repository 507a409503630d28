"""Which matrix products a graph really executes, against the arithmetic of its architecture.

Measured, not inferred: ONNX Runtime runs the graph with its profiler on, once as it was exported
and once as ONNX Runtime itself saves it after all its optimisations.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clsspec_serve.arithmetic import Product, total_macs, weight_products
from clsspec_serve.bundle import GRAPH
from clsspec_serve.engines.without_telemetry import onnxruntime
from clsspec_serve.errors import ExportError, one_line
from clsspec_serve.manifest import Architecture, Variant
from clsspec_serve.transform import CHANNELS

SHAPES = ((2, (3, 5)), (3, (6, 4)))
"""(batch, grid) pairs that are run: neither the batch nor the grid may be frozen."""

_WEIGHT_OPS = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulBiasGelu"}
_UNKNOWN_OPS = {"ConvTranspose", "Einsum", "MatMulInteger", "MatMulNBits", "QLinearMatMul"}
"""Products that a later exporter might use; the audit refuses what it does not count."""
_ATTENTION_OPS = {"Attention", "MultiHeadAttention"}

Shape = list[int]


@dataclass(frozen=True)
class Executed:
    """The products of one run.

    `weights` counts (rows, width in, width out) of products with a weight, rows being tokens times
    batch; `macs` is the multiply-accumulates of everything.
    """

    weights: Counter[tuple[int, int, int]]
    macs: int


def audit(graph: Path, architecture: Architecture) -> None:
    """Raise `ExportError` unless the graph multiplies exactly what its plain twin multiplies.

    Every split QKV must be two products, over the [CLS] and over the patch tokens only.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        _save_optimised(graph, optimised)
        for name, file in (("exported", graph), ("optimised", optimised)):
            for batch, grid in SHAPES:
                _compare(name, architecture, batch, grid, execute(file, architecture, batch, grid))


def audit_variant(folder: Path, variant: Variant, architecture: Architecture) -> None:
    """Of a variant's graph the same, as far as ONNX Runtime runs it on a CPU.

    In int8 and fp16 that is the graph as it was exported, as runtimes turn the products of int8
    into operators that are not counted. bf16 has no kernels: its weights must have the shapes, in
    order, of the graph that was audited; that takes the package onnx.
    """
    graph = folder / variant.graph
    if "fp32" in variant.precisions:
        audit(graph, architecture)
    elif "bf16" in variant.precisions:
        _compare_weights(graph, folder / GRAPH)
    else:
        for batch, grid in SHAPES:
            executed = execute(graph, architecture, batch, grid)
            _compare(variant.graph, architecture, batch, grid, executed)


def _compare_weights(graph: Path, audited: Path) -> None:
    found, expected = (_weight_shapes(each) for each in (graph, audited))
    if found != expected:
        raise ExportError(f"{graph.name} has products with {found}, {audited.name} {expected}")


def _weight_shapes(graph: Path) -> list[Shape]:
    """Of each product with a weight, in order."""
    import onnx  # not above: `clsspec verify` counts the products of the others without it

    proto = onnx.load(graph, load_external_data=False).graph
    shapes = {each.name: list(each.dims) for each in proto.initializer}
    casts = {each.output[0]: each.input[0] for each in proto.node if each.op_type == "Cast"}
    products = (each for each in proto.node if each.op_type == "MatMul")
    weights = (casts.get(each.input[1], each.input[1]) for each in products)
    return [shapes[name] for name in weights if name in shapes]


def execute(graph: Path, architecture: Architecture, batch: int, grid: tuple[int, int]) -> Executed:
    """Run a graph as it is, without further optimisation, and collect its products."""
    sides = [side * architecture.patch_size for side in grid]
    with tempfile.TemporaryDirectory() as folder:
        options = _options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = _load(graph, options)
        width = session.get_inputs()[1].shape[-1]  # D or 2 * head_dim
        inputs = {
            "pixels": np.ones((batch, 4, *sides), dtype=np.uint8),
            "position": np.ones((*grid, width), dtype=np.float32),
        }
        try:
            session.run(None, inputs)
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ExportError(
                f"the graph does not run with a batch of {batch} and a grid of "
                f"{grid[0]}x{grid[1]}: {one_line(error)}"
            ) from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return _collect(events)


def _collect(events: list[dict[str, Any]]) -> Executed:
    weights: Counter[tuple[int, int, int]] = Counter()
    macs = 0
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") != "Node" or "output_type_shape" not in arguments:
            continue
        operator = arguments["op_name"]
        if operator in _UNKNOWN_OPS:
            raise ExportError(f"the graph has a product that the audit cannot count: {operator}")
        inputs = [_shape(entry) for entry in arguments["input_type_shape"]]
        output = _shape(arguments["output_type_shape"][0])
        if operator in _WEIGHT_OPS:
            rows, width_in = math.prod(output[:-1]), inputs[0][-1]
            macs += rows * width_in * output[-1]
            if len(output) < 4:  # products of two activations have a head axis
                weights[rows, width_in, output[-1]] += 1
        elif operator in _ATTENTION_OPS:
            queries, keys = inputs[0], inputs[1]
            macs += 2 * math.prod(queries) * keys[-2]
        elif operator == "Conv":
            # The patch embedding of earlier bundles: each byte meets each output channel once.
            patches, width = output[0] * math.prod(output[2:]), output[1]
            macs += math.prod(inputs[0]) * width
            weights[patches, math.prod(inputs[0]) // patches, width] += 1
    return Executed(weights, macs)


def _compare(
    name: str, architecture: Architecture, batch: int, grid: tuple[int, int], found: Executed
) -> None:
    where = f"the {name} graph (batch {batch}, grid {grid[0]}x{grid[1]})"
    pixels = CHANNELS * architecture.patch_size**2
    embedding = Product("patch_embed", grid[0] * grid[1], pixels, architecture.embed_dim)
    expected = Counter(
        (batch * product.tokens, product.width_in, product.width_out)
        for product in (embedding, *weight_products(architecture, grid))
    )
    if found.weights != expected:
        extra, lacking = found.weights - expected, expected - found.weights
        raise ExportError(
            f"{where} has other products than its architecture: "
            f"too many of {_listed(extra)}; too few of {_listed(lacking)} (rows x in x out)"
        )
    plain = architecture.model_copy(update={"specialization": None})
    twin = batch * (total_macs(plain, grid) + embedding.macs // CHANNELS)  # for the coverage
    if found.macs != twin:
        raise ExportError(
            f"{where} does {found.macs:,} multiply-accumulates, its plain twin {twin:,}"
        )


def _save_optimised(graph: Path, path: Path) -> None:
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name", path.name + ".data"
    )
    # That pass pads the channels of earlier bundles' patch embedding: no product of ours.
    _load(graph, options, disabled_optimizers=["NchwcTransformer"])


def _load(graph: Path, options: Any, **arguments: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], **arguments
        )
    except Exception as error:  # onnxruntime's errors share no public base class
        raise ExportError(f"onnxruntime cannot load {graph}: {one_line(error)}") from error


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors reach the user through ours
    return options


def _shape(entry: dict[str, Shape]) -> Shape:
    return next(iter(entry.values()))


def _listed(products: Counter[tuple[int, int, int]]) -> str:
    rows = [f"{n} x ({r} x {i} x {o})" for (r, i, o), n in sorted(products.items())]
    return ", ".join(rows) or "none"
