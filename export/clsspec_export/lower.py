"""Graphs of a backbone that compute less than fp32, each a variant of its bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from clsspec_export.backbone import Backbone
from clsspec_export.calibration import calibration_inputs
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.half import in_half
from clsspec_export.int8 import quantize
from clsspec_export.onnx_graph import export_graph
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Variant

ENGINES: dict[Precision, tuple[EngineName, ...]] = {
    "bf16": ("cuda", "tensorrt"),
    "fp16": ("cuda", "tensorrt"),
    "int8": ("onnxruntime", "openvino"),
}
"""What runs a graph in each; OpenVINO computes bf16 from the graph in fp32."""


def lower_precisions(names: Sequence[str], pictures: Sequence[Path]) -> list[Precision]:
    """The precisions of these names, each once, in the order given; `pictures` are for int8.

    Raises `UsageError` for names that no graph is written in, for int8 without pictures, and for
    pictures without int8.
    """
    known = {str(name): name for name in ENGINES}
    for name in names:
        if name not in known:
            raise UsageError(
                f"--precision has {name!r}; accepted are {', '.join(known)}, beside fp32, which "
                "every bundle has"
            )
    if "int8" in names and not pictures:
        raise UsageError("--precision int8 needs --calibrate, a folder of pictures like yours")
    if pictures and "int8" not in names:
        raise UsageError("--calibrate is for --precision int8")
    return [known[name] for name in dict.fromkeys(names)]


def write_lower(
    backbone: Backbone,
    precision: Precision,
    folder: Path,
    checkpoint: Checkpoint,
    pictures: Sequence[Path],
) -> Variant:
    """Write the graph of one precision, with weights of its own, to the bundle's folder.

    `pictures`: what int8 is calibrated on.
    """
    name, engines = f"model.{precision}.onnx", ENGINES[precision]
    if precision != "int8":
        export_graph(in_half(backbone, precision), folder / name)
        return Variant(graph=name, engines=engines, precisions=(precision,))
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / name
        export_graph(backbone, whole)
        quantize(whole, folder / name, calibration_inputs(checkpoint, pictures))
    found_on = f"ranges of {len(pictures)} pictures"
    return Variant(graph=name, engines=engines, precisions=(precision,), calibration=found_on)
