"""That the models of a repository answer as the bundle does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from clsspec_export.triton.plan import Plan
from clsspec_export.triton.size import Size
from clsspec_serve.bundle import Bundle
from clsspec_serve.engines.protocol import Value
from clsspec_serve.engines.select import load_engine
from clsspec_serve.errors import ExportError
from clsspec_serve.loading import start
from clsspec_serve.parity import Array, compare

MAX_DIFFERENCE = 1e-5
"""Relative to the largest value. The same products in the same precision; only what ONNX Runtime
computes beforehand of a fixed size can be rounded otherwise."""

BATCH = 2


def check(bundle: Bundle, plan: Plan, graphs: Mapping[str, Path]) -> float:
    """The largest difference of any output to the bundle's, for a batch of random pictures.

    `graphs`: the ONNX files by their models' names. Raises `ExportError` for one that is too large,
    and for an output of another shape than Triton is told, `EngineError` for a graph that does not
    load.
    """
    backbone, *heads = plan.graphs
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, *backbone.inputs[0].dims), np.uint8)
    pixels[:, 3] = 1
    outputs = [each.name for each in backbone.outputs]
    tasks = [each.task for each in bundle.manifest.heads]
    expected = start(bundle, engine="onnxruntime").infer(pixels, outputs, tasks)
    found: dict[str, Value] = {"pixels": pixels}
    worst = 0.0
    for model in (backbone, *heads):
        engine = load_engine(graphs[model.name], engine="onnxruntime", precision="fp32")
        names = [each.name for each in model.outputs]
        found |= engine.run({each.name: found[each.name] for each in model.inputs}, names)
        for output in model.outputs:
            array = np.asarray(found[output.name])
            if array.shape[1:] != output.dims or array.dtype != np.float32:
                raise ExportError(
                    f"{model.name} gives {output.name} as {array.shape[1:]} {array.dtype}, "
                    f"Triton is told {output.dims} float32"
                )
            difference = _difference(output.name, plan.size, array, expected[output.name])
            # Not the other way round: NaN is not close.
            if not difference <= MAX_DIFFERENCE:
                raise ExportError(
                    f"{model.name} differs from the bundle; {output.name}: relative difference "
                    f"{difference:.1e}, at most {MAX_DIFFERENCE:.0e}"
                )
            worst = max(worst, difference)
    return worst


def _difference(name: str, size: Size, found: Array, expected: Array) -> float:
    """Relative to the largest value; equal arrays may be zero altogether."""
    same = np.array_equal(found, expected)
    return 0.0 if same else compare(name, size, found, expected).relative
