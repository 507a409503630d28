"""The ways to send a picture or several, and what a bad one among them spoils."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from http_exchange import WIDE, npz
from http_server import Running, serving
from pictures import PHOTO, encoded
from PIL import Image

from clsspec_serve import Geometry, Model, load
from clsspec_serve.service import Capacity

TALL = encoded(PHOTO.transpose(Image.Transpose.ROTATE_90).crop((0, 0, 75, 160)), "PNG")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    capacity = Capacity(view_patches=10_000, threads=2)
    with serving([load(bundle, threads=1)], capacity) as running:
        yield running


def files(*pictures: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", (f"{index}.img", content)) for index, content in enumerate(pictures)]


def as_json(*pictures: str) -> dict[str, Any]:
    return {"image": pictures[0]} if len(pictures) == 1 else {"images": list(pictures)}


def test_all_ways_to_send_a_picture_give_the_same(server: Running) -> None:
    text = base64.b64encode(WIDE).decode()
    client = server.client
    answers = [
        client.post("/embed?format=npy", content=WIDE),
        client.post("/embed?format=npy", content=WIDE, headers={"content-type": "image/jpeg"}),
        client.post(
            "/embed?format=npy",
            content=WIDE,
            headers={"content-type": "application/x-www-form-urlencoded"},  # curl --data-binary
        ),
        client.post("/embed?format=npy", content=iter([WIDE[:1000], WIDE[1000:]])),
        client.post("/embed?format=npy", files=files(WIDE)),
        client.post("/embed?format=npy", json=as_json(text)),
        client.post("/embed?format=npy", json=as_json(f"data:image/jpeg;base64,{text}")),
    ]
    assert [answer.status_code for answer in answers] == [200] * 7
    assert len({answer.content for answer in answers}) == 1


def test_several_pictures_come_back_in_order_with_their_names(
    server: Running, model: Model
) -> None:
    answer = server.client.post("/embed", files=files(WIDE, TALL, WIDE))
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["index"] for result in results] == [0, 1, 2]
    assert [result["name"] for result in results] == ["0.img", "1.img", "2.img"]
    for result, content in zip(results, (WIDE, TALL, WIDE), strict=True):
        wanted = model(content)
        np.testing.assert_allclose(np.float32(result["cls"]), wanted.cls, rtol=1e-6)
        assert Geometry.from_dict(result["geometry"]) == wanted.geometry


def test_several_masks_come_in_one_archive_unless_asked_otherwise(
    server: Running, model: Model
) -> None:
    found = npz(server.client.post("/segment", files=files(WIDE, TALL)))
    assert sorted(found) == ["0/geometry", "0/segment", "1/geometry", "1/segment"]
    wanted = model(TALL, tasks=("segment",)).segment
    np.testing.assert_array_equal(found["1/segment"], wanted)


def test_a_bad_picture_among_several_spoils_its_own_answer_only(
    server: Running, model: Model
) -> None:
    answer = server.client.post("/embed", files=files(WIDE, b"no picture", TALL[:-40], TALL))
    assert answer.status_code == 207
    good, text, cut, last = answer.json()["results"]
    assert text["error"]["type"] == cut["error"]["type"] == "invalid_image"
    assert "is not an image" in text["error"]["message"]
    assert "truncated" in cut["error"]["message"]
    assert text["error"]["request_id"] == answer.headers["x-request-id"]
    np.testing.assert_allclose(np.float32(good["cls"]), model(WIDE).cls, rtol=1e-6)
    np.testing.assert_allclose(np.float32(last["cls"]), model(TALL).cls, rtol=1e-6)


def test_a_picture_that_is_no_base64_or_empty_spoils_its_own_answer_too(
    server: Running, model: Model
) -> None:
    good = base64.b64encode(WIDE).decode()
    wrapped = base64.encodebytes(WIDE).decode()
    assert "\n" in wrapped[:-1]
    answer = server.client.post("/embed", json={"images": ["", "%%%", good, wrapped]})
    assert answer.status_code == 207
    empty, bad, first, second = answer.json()["results"]
    assert "is empty" in empty["error"]["message"]
    assert bad["error"]["message"] == (
        "an image is not base64: it begins with '%%%'; accepted is standard base64 with its "
        "padding, or data:image/...;base64,..."
    )
    for each in (first, second):
        np.testing.assert_allclose(np.float32(each["cls"]), model(WIDE).cls, rtol=1e-6)


def test_an_archive_says_which_picture_was_bad(server: Running) -> None:
    answer = server.client.post("/features", files=files(b"no picture", WIDE))
    assert answer.status_code == 207
    found = npz(answer)
    assert sorted(found) == ["0/error", "1/cls", "1/geometry", "1/patches"]
    assert json.loads(str(found["0/error"]))["type"] == "invalid_image"


def test_where_all_pictures_are_bad_the_request_is(server: Running) -> None:
    answer = server.client.post("/embed", files=files(b"one", b"two"))
    assert answer.status_code == 422
    assert answer.json()["error"]["type"] == "invalid_image"
