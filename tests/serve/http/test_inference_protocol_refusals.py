"""Requests of the Open Inference Protocol that are refused, and in which words."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton
from http_server import Running, serving
from inference_protocol_client import (
    NAME,
    PICTURES,
    TALL,
    arrays_of,
    body,
    error_of,
    image,
    infer,
    triton_client,
    wanted,
)
from tritonclient.utils import InferenceServerException

from clsspec_serve import load
from clsspec_serve.http.inference_protocol import answer
from clsspec_serve.http.json_request import MOST_VALUES
from clsspec_serve.http.settings import Settings


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)], settings=Settings(pictures=3)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton_client(server) as made:
        yield made


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"colour": "336699"}, "parameters.colour"),
        ({"time": 5}, "parameters.time"),
        ({"background": "green"}, "colour 'green'"),
        ({"size": "0"}, "size '0'"),
        ({"resize": "cover"}, "parameters.resize"),
        ({"binary_data_output": "perhaps"}, "binary_data_output"),
    ],
)
def test_unknown_parameters_and_values_are_refused(
    server: Running, parameters: dict[str, Any], words: str
) -> None:
    assert words in error_of(infer(server, body(PICTURES[0], parameters=parameters)))


@pytest.mark.parametrize("binary", [True, False])
def test_arrays_of_two_shapes_are_refused_in_one_line(
    client: triton.InferenceServerClient, binary: bool
) -> None:
    pictures = image(PICTURES[0], TALL)
    with pytest.raises(InferenceServerException) as raised:
        client.infer(NAME, pictures, outputs=wanted("cls", "depth", binary=binary))
    assert raised.value.status() == "400"
    assert raised.value.message() == (
        "depth has the shape (120, 180) for picture 0 and (180, 120) for picture 1, which make no "
        "tensor; accepted are pictures of one size, or one alone"
    )
    assert arrays_of(client.infer(NAME, pictures, outputs=wanted("patches")))["patches"].shape == (
        (2, 2, 3, 4)
    )


def test_more_numbers_than_json_should_have_are_refused(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = body(*PICTURES, outputs=[{"name": "cls"}, {"name": "cls_0"}])
    monkeypatch.setattr(answer, "MOST_NUMBERS", 16)
    assert infer(server, content).status_code == 200
    monkeypatch.setattr(answer, "MOST_NUMBERS", 15)
    assert "binary_data_output" in error_of(infer(server, content))
    assert infer(server, content | {"parameters": {"binary_data_output": True}}).is_success


@pytest.mark.parametrize("binary", [True, False])
def test_more_pictures_than_accepted_are_refused(
    client: triton.InferenceServerClient, binary: bool
) -> None:
    given: Any = PICTURES[0] if binary else base64.b64encode(PICTURES[0]).decode()
    assert client.infer(NAME, image(*[given] * 3, binary=binary)).as_numpy("cls").shape == (3, 4)
    with pytest.raises(InferenceServerException, match="4 pictures; accepted are 3") as raised:
        client.infer(NAME, image(*[given] * 4, binary=binary))
    assert raised.value.status() == "413"


@pytest.mark.parametrize("binary", [True, False])
def test_one_bad_picture_fails_the_request_and_is_named(
    client: triton.InferenceServerClient, binary: bool
) -> None:
    bad = PICTURES[1][:300]
    given = [PICTURES[0], bad]
    texts = [base64.b64encode(each).decode() for each in given]
    with pytest.raises(InferenceServerException, match=r"picture 1: .*truncated") as raised:
        client.infer(NAME, image(*(given if binary else texts), binary=binary))
    assert raised.value.status() == "400"


def test_what_is_no_base64_is_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="an image is not base64"):
        client.infer(NAME, image("a photograph of a cat", binary=False))


def changed(**changes: Any) -> dict[str, Any]:
    """A sound request but for its tensor."""
    request = body(PICTURES[0])
    request["inputs"][0] |= changes
    return request


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": changed()["inputs"] * 2}, "inputs"),
        (changed(name="pixels"), "image"),
        (changed(datatype="UINT8"), "BYTES"),
        (changed(shape=[2]), "1 elements, but the shape [2]"),
        (changed(shape=[1, 2]), "accepted are [N] and [N, 1]"),
        (changed(shape=[]), "shape"),
        (changed(shape=[1, 1, 1]), "shape"),
        (changed(shape=[0], data=[]), "no picture"),
        (changed(shape=[-1]), "no picture"),
        (changed(data=None), "one of them"),
        (changed(parameters={"binary_data_size": 3}), "one of them"),
        (changed(parameters={"binary_data_size": 3}, data=None), "0 bytes follow"),
        (changed(parameters={"shared_memory_region": "a"}), "shared_memory_region"),
        (body(PICTURES[0], outputs=[{"name": "logits"}]), "'logits'; accepted are cls, patches"),
        (body(PICTURES[0], outputs=[{"name": "cls"}, {"name": "cls"}]), "each once"),
        (
            body(PICTURES[0], outputs=[{"name": "cls", "parameters": {"classification": 3}}]),
            "classification",
        ),
        (body(PICTURES[0], model_name="clip"), "'clip'; the path names 'tiny'"),
        (body(PICTURES[0], priority=1), "priority"),
    ],
)
def test_requests_that_are_none_are_refused(
    server: Running, content: dict[str, Any], words: str
) -> None:
    assert words in error_of(infer(server, content))


def test_a_body_of_very_many_values_is_refused_before_it_is_read(server: Running) -> None:
    text = f'{{"inputs": [{{"name": "image", "data": [{"0," * MOST_VALUES} 0]}}]}}'
    assert "values" in error_of(server.client.post("/v2/models/tiny/infer", content=text), 413)


def test_compressed_bodies_are_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="compressed") as raised:
        client.infer(NAME, image(*PICTURES), request_compression_algorithm="gzip")
    assert raised.value.status() == "415"
