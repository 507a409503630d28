"""What TensorRT made of a graph, by its own inspector: which layers, in which precision."""

from __future__ import annotations

import json
import re
from typing import Any

from clsspec_serve.schema import Count, Strict

_ATTENTION = re.compile(r"ge(?:mm|mv)_mha|fmha|flash_?att", re.IGNORECASE)
"""Of the kernels that are a whole attention: `_gemm_mha_v2_myl0_17`.

Their names only. Metadata, and the names of plain products, hold names of the model's modules.
"""
_HALF = re.compile(r"half|fp16|bf16|bfloat16", re.IGNORECASE)
_FLOAT = re.compile(r"half|fp16|bf16|float|fp32", re.IGNORECASE)
_TYPES = ("Format/Datatype", "DataType", "Datatype")
"""Where a tensor's type stands: the first in TensorRT 10, the others in 11."""


class Layers(Strict):
    """`half` of the `floating` layers compute or copy in fp16 or bf16; `all` counts others, too.

    `attention`: layers that are an attention in one kernel. `floating` is 0 where the inspector
    tells no types, and `half` then says nothing.
    """

    all: Count
    floating: Count
    half: Count
    attention: Count

    def __str__(self) -> str:
        if not self.floating:
            return f"{self.all} layers of which TensorRT tells no types"
        share = round(100 * self.half / self.floating)
        return (
            f"{share} % of {self.floating} layers in half precision, {self.attention} fused "
            "attentions"
        )


def inspect(module: Any, engine: Any) -> Layers:
    """Count the layers of an engine that was built with detailed names; never raises for them."""
    text = engine.create_engine_inspector().get_engine_information(
        module.LayerInformationFormat.JSON
    )
    return count(text)


def count(text: str) -> Layers:
    """Count the layers in the inspector's JSON; a text that it is not has no layers."""
    try:
        found = json.loads(text)["Layers"]
        layers = [each for each in found if isinstance(each, dict)]
    except (ValueError, KeyError, TypeError):
        return Layers(all=0, floating=0, half=0, attention=0)
    types = [_output_types(layer) for layer in layers]
    return Layers(
        all=len(found),
        floating=sum(bool(_FLOAT.search(each)) for each in types),
        half=sum(bool(_HALF.search(each)) for each in types),
        attention=sum(bool(_ATTENTION.search(_kernel(layer))) for layer in layers),
    )


def _output_types(layer: dict[str, Any]) -> str:
    outputs = layer.get("Outputs") or ()
    return " ".join(str(output[key]) for output in outputs for key in _TYPES if key in output)


def _kernel(layer: dict[str, Any]) -> str:
    return f"{layer.get('Name', '')} {layer.get('TacticName', '')}"
