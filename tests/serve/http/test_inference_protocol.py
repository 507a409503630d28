"""Inference over the Open Inference Protocol, as Triton's own client speaks it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from head_bundle import Protocol, depth_head, segment_head, write_head_bundle
from http_server import Running, Wrapped, serving
from inference_protocol_client import (
    FEATURES,
    LAYERS,
    NAME,
    PICTURES,
    arrays_of,
    assert_equal,
    body,
    image,
    infer,
    triton_client,
    wanted,
)
from numpy.typing import NDArray
from pictures import encoded
from PIL import Image

from clsspec_serve import Model, load
from clsspec_serve.engines.protocol import Values
from clsspec_serve.heads import Category
from clsspec_serve.http.settings import Settings
from clsspec_serve.layers import TASKS


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)], settings=Settings(pictures=3)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton_client(server) as made:
        yield made


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


class Listener(Wrapped):
    """Keeps the outputs of every forward pass."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.engine, lambda inputs: None)
        self.asked: list[list[str]] = []

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
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


def test_kserves_clients_name_the_model_again(server: Running) -> None:
    assert infer(server, body(PICTURES[0], model_name=NAME, id="7")).json()["id"] == "7"


def test_what_tritons_client_says_to_its_own_scheduler_is_no_error(
    client: triton.InferenceServerClient, model: Model
) -> None:
    result = client.infer(NAME, image(PICTURES[0]), priority=1, timeout=5_000_000)
    np.testing.assert_array_equal(result.as_numpy("cls")[0], model(PICTURES[0]).cls)
