from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from http_server import Running, serving
from pictures import PHOTO, encoded
from PIL import Image

from clsspec_serve import Model, load
from clsspec_serve.http.json_request import MOST_VALUES
from clsspec_serve.http.settings import Settings

PICTURES = [encoded(PHOTO, "JPEG"), encoded(PHOTO.rotate(90, expand=True), "PNG")]
TEXTS = [base64.b64encode(picture).decode() for picture in PICTURES]
NAME = "tiny"


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)], settings=Settings(pictures=3)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai_client(server) as made:
        yield made


def openai_client(server: Running, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{server.url}/v1",
        api_key=key,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )


def post(server: Running, **changes: Any) -> httpx.Response:
    return server.client.post("/v1/embeddings", json={"model": NAME, "input": TEXTS[0]} | changes)


def floats(embedding: Any) -> np.ndarray:
    return np.array(embedding, np.float32)


def test_the_client_gets_the_cls_embedding_bit_for_bit(client: openai.OpenAI, model: Model) -> None:
    answer = client.embeddings.create(model=NAME, input=TEXTS[0])
    assert answer.model == NAME
    assert answer.usage.total_tokens == answer.usage.prompt_tokens == 0
    (found,) = answer.data
    assert (found.index, found.object) == (0, "embedding")
    expected = model(PICTURES[0]).cls
    assert np.linalg.norm(expected) > 2  # it is not normalised
    np.testing.assert_array_equal(floats(found.embedding), expected)


def test_several_pictures_are_answered_in_order(client: openai.OpenAI, model: Model) -> None:
    answer = client.embeddings.create(model=NAME, input=[TEXTS[1], TEXTS[0]])
    assert [found.index for found in answer.data] == [0, 1]
    for found, picture in zip(answer.data, reversed(PICTURES), strict=True):
        np.testing.assert_array_equal(floats(found.embedding), model(picture).cls)


def test_numbers_are_the_default_and_as_exact_as_base64(server: Running, model: Model) -> None:
    expected = model(PICTURES[0]).cls
    for changes in ({}, {"encoding_format": "float"}):
        (found,) = post(server, **changes).json()["data"]
        np.testing.assert_array_equal(floats(found["embedding"]), expected)
    (found,) = post(server, encoding_format="base64").json()["data"]
    assert base64.b64decode(found["embedding"]) == expected.astype("<f4").tobytes()


def test_the_client_may_ask_for_numbers(client: openai.OpenAI, model: Model) -> None:
    answer = client.embeddings.create(model=NAME, input=TEXTS[0], encoding_format="float")
    np.testing.assert_array_equal(floats(answer.data[0].embedding), model(PICTURES[0]).cls)


def test_data_uris_are_read(client: openai.OpenAI, model: Model) -> None:
    answer = client.embeddings.create(model=NAME, input=f"data:image/jpeg;base64,{TEXTS[0]}")
    np.testing.assert_array_equal(floats(answer.data[0].embedding), model(PICTURES[0]).cls)


def test_a_user_and_the_models_own_width_are_accepted(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model=NAME, input=TEXTS[0], dimensions=4, user="somebody")
    assert len(answer.data[0].embedding) == 4


def test_other_dimensions_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions 3; accepted are 4"):
        client.embeddings.create(model=NAME, input=TEXTS[0], dimensions=3)


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'clip'; accepted is 'tiny'") as raised:
        client.embeddings.create(model="clip", input=TEXTS[0])
    assert raised.value.type == "not_found"


def test_text_is_refused_with_the_servers_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="not base64") as raised:
        client.embeddings.create(model=NAME, input="a photograph of a cat")
    assert raised.value.type == "invalid_request"
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["request_id"] == raised.value.request_id


def test_tokens_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="string"):
        client.embeddings.create(model=NAME, input=[1, 2, 3])


@pytest.mark.parametrize("bad", ["not base64!", base64.b64encode(PICTURES[0][:300]).decode()])
def test_one_bad_picture_fails_the_request_and_is_named(client: openai.OpenAI, bad: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="picture 1: "):
        client.embeddings.create(model=NAME, input=[TEXTS[0], bad])


def test_a_bad_picture_alone_has_no_number(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as raised:
        client.embeddings.create(model=NAME, input=base64.b64encode(b"no picture").decode())
    assert raised.value.type == "invalid_image"
    assert "picture 0" not in raised.value.message


def test_more_pictures_than_accepted_are_refused(client: openai.OpenAI) -> None:
    assert len(client.embeddings.create(model=NAME, input=[TEXTS[0]] * 3).data) == 3
    with pytest.raises(openai.APIStatusError, match="4 pictures; accepted are 3") as raised:
        client.embeddings.create(model=NAME, input=[TEXTS[0]] * 4)
    assert raised.value.status_code == 413


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("", 422, "Invalid JSON"),
        ("[]", 422, "the JSON body"),
        ("{}", 422, "input"),
        ('{"model": "tiny", "input": []}', 422, "no picture"),
        ('{"model": "tiny", "input": ""}', 422, "empty"),
        ('{"model": "tiny", "input": "", "encoding_format": "int8"}', 422, "encoding_format"),
        ('{"model": "tiny", "input": "", "prompt": "x"}', 422, "prompt"),
        ('{"input": ""}', 422, "model"),
        ("[" * 100_000, 422, "Invalid JSON"),
        (f'{{"model": "tiny", "input": [{"0," * MOST_VALUES} 0]}}', 413, "values"),
    ],
)
def test_wrong_bodies_are_refused(server: Running, body: str, status: int, words: str) -> None:
    answer = server.client.post("/v1/embeddings", content=body)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]


def test_the_models_are_the_one(client: openai.OpenAI) -> None:
    (only,) = client.models.list().data
    assert (only.id, only.object) == (NAME, "model")
    assert client.models.retrieve(NAME) == only
    with pytest.raises(openai.NotFoundError, match="no model 'clip'"):
        client.models.retrieve("clip")


def test_transparent_pictures_lie_on_white(client: openai.OpenAI) -> None:
    clear = base64.b64encode(encoded(Image.new("RGBA", (28, 28), (0, 0, 0, 0)), "PNG")).decode()
    answer = client.embeddings.create(model=NAME, input=clear)
    assert answer.data[0].embedding == [255, 255, 255, 1]


def test_the_key_is_the_servers(bundle: Path) -> None:
    with (
        serving([load(bundle, threads=1)], settings=Settings(keys=("secret",))) as server,
        openai_client(server, "secret") as right,
        openai_client(server, "wrong") as wrong,
    ):
        assert len(right.embeddings.create(model=NAME, input=TEXTS[0]).data) == 1
        with pytest.raises(openai.AuthenticationError, match="API key"):
            wrong.embeddings.create(model=NAME, input=TEXTS[0])


def test_the_openapi_document_has_the_request(server: Running) -> None:
    document = server.client.get("/openapi.json").json()
    body = document["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]
    assert set(body["application/json"]["schema"]["required"]) == {"input", "model"}
    assert "$defs" not in json.dumps(document)
