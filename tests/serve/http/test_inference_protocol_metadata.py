"""What the Open Inference Protocol says of the server and the model, and when it is ready."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
import tritonclient.http as triton
from http_server import Running, serving
from inference_protocol_client import (
    FEATURES,
    NAME,
    PICTURES,
    body,
    error_of,
    image,
    infer,
    triton_client,
)
from tritonclient.utils import InferenceServerException

from clsspec_serve import load
from clsspec_serve.http.settings import Settings


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)], settings=Settings(pictures=3)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton_client(server) as made:
        yield made


def test_triton_reads_the_servers_metadata(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata() == {
        "name": "clsspec",
        "version": version("clsspec-serve"),
        "extensions": ["binary_tensor_data"],
    }


def test_triton_reads_the_models_metadata(client: triton.InferenceServerClient) -> None:
    metadata = client.get_model_metadata(NAME)
    assert client.get_model_metadata(NAME, "1") == metadata
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in metadata.pop("outputs")}
    assert metadata == {
        "name": NAME,
        "versions": ["1"],
        "platform": "clsspec_bundle",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
    }
    assert outputs == {
        **{name: ("FP32", [-1, 4]) for name in FEATURES[::2]},
        **{name: ("FP32", [-1, -1, -1, 4]) for name in FEATURES[1::2]},
        "segment": ("UINT8", [-1, -1, -1]),
        "depth": ("FP32", [-1, -1, -1]),
        "classify": ("FP32", [-1, 2]),
    }


def test_triton_sees_that_all_is_ready(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.is_model_ready(NAME, "1")


def test_other_models_and_versions_are_not_found(client: triton.InferenceServerClient) -> None:
    assert not client.is_model_ready("clip")
    assert not client.is_model_ready(NAME, "2")
    for ask in (
        lambda: client.get_model_metadata("clip"),
        lambda: client.infer("clip", image(*PICTURES)),
    ):
        with pytest.raises(InferenceServerException, match="no model 'clip'; accepted is 'tiny'"):
            ask()
    with pytest.raises(InferenceServerException, match="no version '2'") as raised:
        client.infer(NAME, image(*PICTURES), model_version="2")
    assert raised.value.status() == "404"


def test_nothing_is_ready_while_the_server_drains(bundle: Path) -> None:
    settings = Settings(drain_seconds=1)
    with serving([load(bundle, threads=1)], settings=settings) as server:
        with triton_client(server) as client:
            server.stop()
            assert client.is_server_live()
            assert not client.is_server_ready()
            assert not client.is_model_ready(NAME)
        assert error_of(server.client.get("/v2/health/ready"), 503) == "shutting down"


def test_all_errors_under_v2_are_the_protocols(bundle: Path) -> None:
    settings = Settings(keys=("secret",), body_bytes=1000)
    with serving([load(bundle, threads=1)], settings=settings) as server:
        assert "API key" in error_of(httpx.get(f"{server.url}/v2", trust_env=False), 401)
        assert error_of(server.client.get("/v2/nothing"), 404) == "Not Found"
        assert error_of(server.client.put("/v2/models/tiny"), 405) == "Method Not Allowed"
        assert "1000 bytes" in error_of(infer(server, body(PICTURES[0])), 413)
        assert set(server.client.get("/v2x").json()["error"]) == {"type", "message", "request_id"}
        with triton_client(server) as client:
            assert client.is_server_live()  # without a key, as load balancers have none
            with pytest.raises(InferenceServerException, match="a valid API key is needed"):
                client.get_server_metadata()
            assert client.get_model_metadata(NAME, headers={"X-API-Key": "secret"})["name"] == NAME


def test_the_numbers_of_requests_name_the_whole_route(server: Running) -> None:
    paths = ("/v2/models/tiny", "/v2/models/clip/versions/1", "/v2/health/live")
    for path in paths:
        server.client.get(path)
    infer(server, body(PICTURES[0]))
    numbers = server.client.get("/metrics").text
    for route, status in (
        ("/v2/models/{name}", 200),
        ("/v2/models/{name}/versions/{version}", 404),
        ("/v2/models/{name}/infer", 200),
        ("/v2/health/live", 200),
    ):
        assert f'clsspec_requests_total{{route="{route}",status="{status}"}}' in numbers


def test_the_openapi_document_has_the_whole_request(server: Running) -> None:
    document = server.client.get("/openapi.json").json()
    infer_route = document["paths"]["/v2/models/{name}/infer"]["post"]
    schema = infer_route["requestBody"]["content"]["application/json"]["schema"]
    tensor = schema["properties"]["inputs"]["items"]["properties"]
    assert tensor["parameters"]["properties"]["binary_data_size"]
    assert "$ref" not in json.dumps(schema)
    assert "$defs" not in json.dumps(document)
    assert {"200", "4XX", "5XX"} == set(infer_route["responses"])
