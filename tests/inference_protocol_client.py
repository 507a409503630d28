"""Requests of the Open Inference Protocol by Triton's own client, and by hand."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np
import tritonclient.http as triton
from http_server import Running
from numpy.typing import NDArray
from pictures import PHOTO, encoded

from clsspec_serve.layers import Layer

PICTURES = [encoded(PHOTO, "JPEG"), encoded(PHOTO.rotate(180), "PNG")]
TALL = encoded(PHOTO.rotate(90, expand=True), "PNG")
LAYERS = (Layer(1, True), Layer(0, True), Layer(0, False))
FEATURES = ("cls", "patches", "cls_0", "patches_0", "cls_0_raw", "patches_0_raw")
NAME = "tiny"


def triton_client(server: Running) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.url.removeprefix("http://"))


def image(
    *pictures: bytes | str, binary: bool = True, column: bool = False
) -> list[triton.InferInput]:
    array = np.array(pictures, np.object_)
    array = array[:, None] if column else array
    tensor = triton.InferInput("image", list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return [tensor]


def wanted(*names: str, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def arrays_of(result: triton.InferResult) -> dict[str, NDArray[Any]]:
    names = [output["name"] for output in result.get_response()["outputs"]]
    return {name: result.as_numpy(name) for name in names}


def body(*pictures: bytes, **changes: Any) -> dict[str, Any]:
    data = [base64.b64encode(picture).decode() for picture in pictures]
    tensor = {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor], **changes}


def infer(server: Running, content: Mapping[str, Any]) -> httpx.Response:
    return server.client.post(f"/v2/models/{NAME}/infer", json=content)


def error_of(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) == {"error", "type", "request_id"}
    assert found["request_id"] == answer.headers["X-Request-Id"]
    return str(found["error"])


def assert_equal(found: Mapping[str, Any], expected: Sequence[Mapping[str, Any]]) -> None:
    """Tensors are what the model itself finds in each picture, bit by bit."""
    for name, tensor in found.items():
        stacked = np.stack([arrays[name] for arrays in expected])
        assert tensor.dtype == stacked.dtype
        np.testing.assert_array_equal(tensor, stacked)
