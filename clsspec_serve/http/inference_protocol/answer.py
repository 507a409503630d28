"""What was found, as tensors: in JSON, or as bytes after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.http.answers import Body
from clsspec_serve.http.errors import Refused
from clsspec_serve.http.inference_protocol.binary import HEADER
from clsspec_serve.http.inference_protocol.inference import Inference
from clsspec_serve.http.inference_protocol.messages import InferenceResponse, OutputTensor
from clsspec_serve.http.inference_protocol.tensors import DATATYPES
from clsspec_serve.predictor import Prediction

MOST_NUMBERS = 1 << 18
"""In the JSON of an answer, which is written in one go: of more, other requests would notice."""


def answer(model: str, inference: Inference, predictions: Sequence[Prediction]) -> Body:
    """The answers for all pictures of a request; raises `Refused` where they are no tensors."""
    outputs: list[OutputTensor] = []
    chunks: list[bytes | memoryview] = []
    left = MOST_NUMBERS
    for name, binary in inference.outputs.items():
        arrays = [prediction.arrays[name] for prediction in predictions]
        tensor = _tensor(name, arrays)
        outputs.append(tensor)
        if binary:
            tensor.parameters = {"binary_data_size": sum(array.nbytes for array in arrays)}
            chunks += [_little_endian(array) for array in arrays]
            continue
        left -= sum(array.size for array in arrays)
        if left < 0:
            raise Refused(
                422,
                f"the outputs have more than {MOST_NUMBERS} numbers, too many for JSON; accepted "
                'is {"binary_data_output": true} in the parameters',
            )
        tensor.data = [number for array in arrays for number in array.reshape(-1).tolist()]
    response = InferenceResponse(model_name=model, id=inference.id, outputs=outputs)
    text = response.model_dump_json(exclude_none=True).encode()
    if not any(inference.outputs.values()):
        return Body(text, "application/json")
    return Body(b"".join([text, *chunks]), "application/octet-stream", {HEADER: str(len(text))})


def _tensor(name: str, arrays: Sequence[NDArray[Any]]) -> OutputTensor:
    first = arrays[0]
    for index, array in enumerate(arrays):
        if array.shape != first.shape:
            raise Refused(
                422,
                f"{name} has the shape {first.shape} for picture 0 and {array.shape} for picture "
                f"{index}, which make no tensor; accepted are pictures of one size, or one alone",
            )
    return OutputTensor(
        name=name, datatype=DATATYPES[first.dtype.name], shape=[len(arrays), *first.shape]
    )


def _little_endian(array: NDArray[Any]) -> memoryview:
    """Its bytes in C order."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data
