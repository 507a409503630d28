"""Products in int8: ONNX Runtime's quantizer, after training, with ranges seen on pictures."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx

from clsspec_export.calibration import Inputs


def quantize(graph: Path, destination: Path, inputs: Iterator[Inputs]) -> None:
    """Write a copy of a graph whose products take and have int8, and its weights beside it.

    Weights are symmetric for each of their columns, what goes into a product for the whole tensor,
    from the least to the largest value seen. Each is an int8 in the file with a DequantizeLinear
    behind it, which runtimes join to products in int8; what comes out of these is float32, not
    rounded once more. The patch embedding stays as it is: bytes and coverage have no range in
    common. Raises as `inputs` does.
    """
    # These take a second to import.
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
        def get_next(self) -> Inputs | None:
            return next(inputs, None)

    kept = [_first_product(graph)]
    # It logs advice on the root's logger for what was done at export.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own use of deprecated interfaces
            quantization.quantize_static(
                str(graph),
                str(destination),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=["MatMul"],
                nodes_to_exclude=kept,
                use_external_data_format=True,
                extra_options={
                    "MatMulConstBOnly": True,
                    "ActivationSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": ["MatMul"],
                },
            )
    finally:
        logging.disable(before)
    # It writes the weights for their owner's eyes only.
    destination.with_name(f"{destination.name}.data").chmod(destination.stat().st_mode)


def _first_product(graph: Path) -> str:
    """The patch embedding's: the first node in order that multiplies."""
    nodes = onnx.load(graph, load_external_data=False).graph.node
    return next(node.name for node in nodes if node.op_type == "MatMul")
