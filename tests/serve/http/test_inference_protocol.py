"""The Open Inference Protocol as Triton's own client speaks it, and what that client cannot say."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from head_bundle import Protocol, depth_head, segment_head, write_head_bundle
from http_server import Running, Wrapped, serving
from numpy.typing import NDArray
from pictures import PHOTO, encoded
from PIL import Image
from tritonclient.utils import InferenceServerException

from clsspec_serve import Model, load
from clsspec_serve.engines.protocol import Arrays
from clsspec_serve.heads import Category
from clsspec_serve.http.inference_protocol import answer
from clsspec_serve.http.json_request import MOST_VALUES
from clsspec_serve.http.settings import Settings
from clsspec_serve.layers import TASKS, Layer

PICTURES = [encoded(PHOTO, "JPEG"), encoded(PHOTO.rotate(180), "PNG")]
TALL = encoded(PHOTO.rotate(90, expand=True), "PNG")
LAYERS = (Layer(1, True), Layer(0, True), Layer(0, False))
FEATURES = ("cls", "patches", "cls_0", "patches_0", "cls_0_raw", "patches_0_raw")
NAME = "tiny"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)], settings=Settings(pictures=3)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton_client(server) as made:
        yield made


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


def test_without_outputs_all_of_them_come_in_binary(
    client: triton.InferenceServerClient, model: Model
) -> None:
    result = client.infer(NAME, image(*PICTURES), request_id="seven")
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == (
        "seven",
        NAME,
        "1",
    )
    assert all("binary_data_size" in each["parameters"] for each in response["outputs"])
    found = arrays_of(result)
    assert tuple(found) == (*FEATURES, "segment", "depth", "classify")
    expected = [model(picture, tasks=TASKS, layers=LAYERS).arrays for picture in PICTURES]
    assert_equal(found, expected)
    assert found["segment"].shape == (2, 120, 180)


def test_without_outputs_all_of_them_come_in_json(server: Running, model: Model) -> None:
    response = infer(server, body(*PICTURES))
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    assert "Inference-Header-Content-Length" not in response.headers
    assert "id" not in response.json()
    dtypes = {"FP32": np.float32, "UINT8": np.uint8}
    found = {
        each["name"]: np.array(each["data"], dtypes[each["datatype"]]).reshape(each["shape"])
        for each in response.json()["outputs"]
    }
    expected = [model(picture, tasks=TASKS, layers=LAYERS).arrays for picture in PICTURES]
    assert len(found) == len(expected[0])
    assert_equal(found, expected)
    segment = next(e for e in response.json()["outputs"] if e["name"] == "segment")
    assert all(type(number) is int for number in segment["data"])


@pytest.mark.parametrize("names", [["cls"], ["depth"], ["patches_0_raw", "cls"], ["segment"]])
@pytest.mark.parametrize("binary", [True, False])
def test_outputs_are_those_asked_for_in_their_order(
    client: triton.InferenceServerClient, model: Model, names: list[str], binary: bool
) -> None:
    found = arrays_of(client.infer(NAME, image(PICTURES[0]), outputs=wanted(*names, binary=binary)))
    assert list(found) == names
    tasks = [name for name in names if name in TASKS] + (["patches"] if len(names) > 1 else [])
    options: dict[str, Any] = {"layers": LAYERS} if len(names) > 1 else {}
    assert_equal(found, [model(PICTURES[0], tasks=tasks, **options).arrays])


def test_binary_and_json_outputs_come_together(
    client: triton.InferenceServerClient, model: Model
) -> None:
    outputs = [*wanted("depth"), *wanted("classify", binary=False), *wanted("cls", "segment")]
    result = client.infer(NAME, image(*PICTURES), outputs=outputs)
    kinds = {each["name"]: "data" in each for each in result.get_response()["outputs"]}
    assert kinds == {"depth": False, "classify": True, "cls": False, "segment": False}
    tasks = ["cls", "segment", "depth", "classify"]
    assert_equal(arrays_of(result), [model(each, tasks=tasks).arrays for each in PICTURES])


def test_an_outputs_own_word_is_stronger_than_that_for_all(server: Running) -> None:
    content = body(
        PICTURES[0],
        parameters={"binary_data_output": True},
        outputs=[{"name": "cls"}, {"name": "cls_0", "parameters": {"binary_data": False}}],
    )
    response = infer(server, content)
    assert response.headers["Content-Type"] == "application/octet-stream"
    length = int(response.headers["Inference-Header-Content-Length"])
    cls, cls_0 = json.loads(response.content[:length])["outputs"]
    assert cls["parameters"] == {"binary_data_size": 16}
    assert len(response.content) == length + 16
    np.testing.assert_array_equal(
        2 * np.frombuffer(response.content[length:], "<f4"), np.array(cls_0["data"], np.float32)
    )


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_pictures_come_in_binary_or_base64_in_a_row_or_column(
    client: triton.InferenceServerClient, model: Model, binary: bool, column: bool
) -> None:
    texts = [base64.b64encode(picture).decode() for picture in PICTURES]
    given = PICTURES if binary else [texts[0], f"data:image/png;base64,{texts[1]}"]
    result = client.infer(NAME, image(*given, binary=binary, column=column), outputs=wanted("cls"))
    assert_equal(arrays_of(result), [model(picture).arrays for picture in PICTURES])


def test_json_may_nest_a_column(server: Running) -> None:
    flat, nested = body(*PICTURES), body(*PICTURES)
    nested["inputs"][0] |= {"shape": [2, 1], "data": [[each] for each in flat["inputs"][0]["data"]]}
    assert infer(server, nested).json() == infer(server, flat).json()


def test_pictures_are_shown_as_the_parameters_say(
    client: triton.InferenceServerClient, model: Model
) -> None:
    clear = encoded(Image.new("RGBA", (40, 60), (10, 20, 30, 100)), "PNG")
    outputs = wanted("patches")
    parameters = {"size": "56x28", "resize": "crop", "background": "336699"}
    found = arrays_of(client.infer(NAME, image(clear), outputs=outputs, parameters=parameters))
    limits = model.request().limits.__class__(background=(0x33, 0x66, 0x99))
    expected = model(clear, tasks=["patches"], size=(56, 28), policy="crop", limits=limits)
    assert_equal(found, [expected.arrays])
    assert found["patches"].shape == (1, 4, 2, 4)
    square = arrays_of(client.infer(NAME, image(clear), outputs=outputs, parameters={"size": 42}))
    assert square["patches"].shape == (1, 3, 3, 4)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"colour": "336699"}, "parameters.colour"),
        ({"timeout": 5}, "parameters.timeout"),
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


class Listener(Wrapped):
    """Keeps the outputs of every forward pass."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.engine, lambda inputs: None)
        self.asked: list[list[str]] = []

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        self.asked.append(sorted(outputs))
        return super().run(inputs, outputs)


def test_one_forward_pass_gives_the_outputs_and_computes_no_others(bundle: Path) -> None:
    observed = load(bundle, threads=1)
    listener = Listener(observed)
    observed.engine = listener
    with serving([observed]) as server, triton_client(server) as client:
        listener.asked.clear()
        client.infer(NAME, image(PICTURES[0]), outputs=wanted("cls_0", "depth", "segment"))
        client.infer(NAME, image(PICTURES[0]), outputs=wanted("patches_0_raw", "cls"))
    assert listener.asked == [["cls_0", "patches"], ["cls", "patches_0_raw"]]


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


def test_a_depth_that_was_cropped_away_is_nan_in_binary_and_null_in_json(tmp_path: Path) -> None:
    head = depth_head([1 / 50, 0, 0, 0], protocol=Protocol(size=(28, 28), policy="crop"))
    bundle = write_head_bundle(tmp_path / "crop", [head])
    with serving([load(bundle, threads=1)]) as server, triton_client(server) as client:
        found = arrays_of(client.infer(NAME, image(PICTURES[0]), outputs=wanted("depth")))
        content = body(PICTURES[0], outputs=[{"name": "depth"}])
        text = infer(server, content).text
        read = client.infer(NAME, image(PICTURES[0]), outputs=wanted("depth", binary=False))
    expected = load(bundle, threads=1)(PICTURES[0], tasks=["depth"]).arrays
    assert 0 < np.isnan(expected["depth"]).sum() < expected["depth"].size
    assert_equal(found, [expected])
    assert_equal(arrays_of(read), [expected])
    assert "null" in text
    assert "NaN" not in text


def test_many_classes_are_16_bit_numbers(tmp_path: Path) -> None:
    classes = [Category(name=f"{index}", colour=(0, 0, 0)) for index in range(300)]
    weight = np.zeros((4, 300))
    head = segment_head(classes, weight, np.arange(300.0))
    bundle = write_head_bundle(tmp_path / "many", [head])
    with serving([load(bundle, threads=1)]) as server, triton_client(server) as client:
        metadata = client.get_model_metadata(NAME)
        for binary in (True, False):
            outputs = wanted("segment", binary=binary)
            found = client.infer(NAME, image(PICTURES[0]), outputs=outputs).as_numpy("segment")
            assert found.dtype == np.uint16
            assert (found == 299).all()
    assert metadata["outputs"][-1] == {
        "name": "segment",
        "datatype": "UINT16",
        "shape": [-1, -1, -1],
    }


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


def test_kserves_clients_name_the_model_again(server: Running) -> None:
    assert infer(server, body(PICTURES[0], model_name=NAME, id="7")).json()["id"] == "7"


def test_a_body_of_very_many_values_is_refused_before_it_is_read(server: Running) -> None:
    text = f'{{"inputs": [{{"name": "image", "data": [{"0," * MOST_VALUES} 0]}}]}}'
    assert "values" in error_of(server.client.post("/v2/models/tiny/infer", content=text), 413)


def test_compressed_bodies_are_refused(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="compressed") as raised:
        client.infer(NAME, image(*PICTURES), request_compression_algorithm="gzip")
    assert raised.value.status() == "415"


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
            with pytest.raises(InferenceServerException, match="an API key is needed"):
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
