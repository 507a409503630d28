"""What a bundle takes and gives, as tensors."""

from __future__ import annotations

import numpy as np

from clsspec_serve.dense.full_resolution import class_dtype
from clsspec_serve.heads import AnyHead, ClassificationHead, SegmentationHead
from clsspec_serve.http.inference_protocol.messages import INPUT, Tensor
from clsspec_serve.manifest import Manifest
from clsspec_serve.schema import Output

DATATYPES = {"float32": "FP32", "uint8": "UINT8", "uint16": "UINT16"}
"""By the names of NumPy's."""


def input_tensor() -> Tensor:
    """Any number of encoded pictures."""
    return Tensor(name=INPUT, datatype="BYTES", shape=[-1])


def output_tensors(manifest: Manifest) -> list[Tensor]:
    """The features of all layers, then the heads' answers."""
    width = manifest.architecture.embed_dim
    features = (_of_features(output, width) for output in manifest.outputs)
    return [*features, *(_of_head(head) for head in manifest.heads)]


def _of_features(output: Output, width: int) -> Tensor:
    shape = [-1, width] if output.kind == "cls" else [-1, -1, -1, width]
    return Tensor(name=output.name, datatype="FP32", shape=shape)


def _of_head(head: AnyHead) -> Tensor:
    if isinstance(head, ClassificationHead):
        return Tensor(name=head.task, datatype="FP32", shape=[-1, len(head.classes)])
    dtype = np.dtype(
        class_dtype(len(head.classes)) if isinstance(head, SegmentationHead) else np.float32
    )
    return Tensor(name=head.task, datatype=DATATYPES[dtype.name], shape=[-1, -1, -1])
