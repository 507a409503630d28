"""A request for inference: from its body to pictures, and to what is asked of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from clsspec_serve.http.errors import Refused
from clsspec_serve.http.inference_protocol.binary import HEADER, elements, split
from clsspec_serve.http.inference_protocol.messages import (
    INPUT,
    InferenceRequest,
    InputTensor,
    RequestParameters,
)
from clsspec_serve.http.intake import Picture, pictures_in, require_pictures
from clsspec_serve.http.json_request import read_json
from clsspec_serve.layers import TASKS
from clsspec_serve.request import Request
from clsspec_serve.service import Service


@dataclass(frozen=True)
class Inference:
    """What a client wants. `outputs`: for each by its name, in order, whether it is binary."""

    id: str | None
    pictures: Sequence[Picture]
    outputs: Mapping[str, bool]
    parameters: RequestParameters


def read_inference(
    body: bytes, json_length: str | None, model: str, known: Sequence[str], most: int
) -> Inference:
    """The request in a body, for a thread.

    `json_length`: the header of the binary data extension. `known`: the names of the model's
    outputs. `most`: pictures. Raises `Refused`.
    """
    text, binary = split(body, json_length)
    given = read_json(InferenceRequest, text)
    if given.model_name not in (None, model):
        raise Refused(422, f"model_name {given.model_name!r}; the path names {model!r}")
    pictures = _pictures(given.inputs[0], binary, most)
    outputs: dict[str, bool] = {}
    for output in given.outputs:
        if output.name not in known or output.name in outputs:
            raise Refused(
                422, f"the output {output.name!r}; accepted are {', '.join(known)}, each once"
            )
        own = output.parameters.binary_data
        outputs[output.name] = given.parameters.binary_data_output if own is None else own
    everything = dict.fromkeys(known, given.parameters.binary_data_output)
    return Inference(given.id, pictures, outputs or everything, given.parameters)


def asked_of(service: Service, inference: Inference, pixels: int) -> Request:
    """What the model is asked: these outputs and no others, from one forward pass.

    `pixels`: of a picture, at most. Raises `UsageError`.
    """
    chosen = [each for each in service.manifest.outputs if each.name in inference.outputs]
    kinds = {*(output.kind for output in chosen), *inference.outputs}
    tasks = tuple(task for task in TASKS if task in kinds)
    settled = service.request(inference.parameters.options(tasks, pixels))
    # Tasks and layers can only say both features of a layer, or one of all of them.
    return replace(settled, outputs=tuple(chosen))


def _pictures(tensor: InputTensor, binary: memoryview, most: int) -> list[Picture]:
    size = tensor.parameters.binary_data_size
    if (size is None) == (tensor.data is None):
        raise Refused(422, f"{INPUT} has its data in JSON, or a binary_data_size: one of them")
    if (size or 0) != len(binary):
        raise Refused(
            400,
            f"{len(binary)} bytes follow the JSON, whose length is {HEADER}; the "
            f"binary_data_size of {INPUT} is {size or 0}",
        )
    count = tensor.shape[0]
    if tensor.shape[1:] not in ([], [1]):
        raise Refused(422, f"the shape {tensor.shape} of {INPUT}; accepted are [N] and [N, 1]")
    require_pictures(count, most)
    if tensor.data is None:
        return [Picture(element) for element in elements(binary, count)]
    texts = [text for each in tensor.data for text in ([each] if isinstance(each, str) else each)]
    if len(texts) != count:
        raise Refused(422, f"{INPUT} has {len(texts)} elements, but the shape {tensor.shape}")
    return pictures_in(texts, most)
