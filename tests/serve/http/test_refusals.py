"""What is refused, with which status, and in which words."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_server import Running, serving
from pictures import PHOTO, encoded
from PIL import Image

from clsspec_serve import load
from clsspec_serve.http.settings import Settings

PICTURE = encoded(PHOTO, "JPEG")
SETTINGS = Settings(body_bytes=200_000, pictures=3, pixels=30_000)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with serving([load(bundle, threads=1)], settings=SETTINGS) as running:
        yield running


def refused(answer: httpx.Response, status: int, kind: str) -> str:
    """The message of an error that has the body which all errors have."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert list(error) == ["type", "message", "request_id"]
    assert error["type"] == kind
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "\n" not in error["message"]
    return str(error["message"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/embed?size=0", "size '0'; accepted is HxW in pixels, such as 480x640, or one side"),
        ("/embed?size=1x2x3", "size '1x2x3'; accepted is HxW in pixels"),
        ("/embed?layers=x", "layers 'x'; accepted are block numbers from 0"),
        ("/embed?layers=7", "layer 7 is not in this bundle; it has 1, 0, 0:raw"),
        ("/embed?background=red", "colour 'red'; accepted is RRGGBB, such as ffffff"),
        ("/embed?resize=stretch", "resize: Input should be 'squash', 'crop', 'fit' or 'short'"),
        ("/embed?pool=2", "there is no option pool here; /docs has those of every route"),
        ("/embed?format=xml", "format: Input should be"),
        ("/features?pool=0", "pool: Input should be greater than or equal to 1"),
        ("/features?tasks=segment", "segment is no feature; POST /predict has all tasks"),
        ("/features?tasks=", "tasks ''; accepted are cls, patches, segment, depth, classify"),
        ("/segment?window=3", "window 3; accepted are a patch, 14 pixels, and more"),
        ("/segment?stride=3", "a stride needs a window"),
        ("/segment?window=-1", "window: Input should be greater than or equal to 0"),
        ("/predict?tasks=cls,depth&window=28", "windows are for segment and depth"),
        ("/predict?tasks=mask", "tasks 'mask'; accepted are cls, patches, segment"),
        ("/features?format=npy&tasks=cls,patches", "npy is for one array, not cls, patches"),
        ("/features?format=png&layers=0,1", "png is for one array, not patches_0, patches"),
        ("/features?format=png&tasks=cls", "png is for a patch map, not cls"),
        ("/features?format=png&pool=2", "pool, normalize and dtype are for arrays; png has none"),
        ("/depth?dtype=float16", "pool, normalize and dtype are for arrays; png has none"),
        ("/predict?tasks=cls&tasks=depth", "tasks is given 2 times; accepted is once, with comm"),
        ("/embed?resize=big", "resize: Input should be 'squash', 'crop', 'fit' or 'short', not 'b"),
    ],
)
def test_an_option_that_does_not_fit(server: Running, path: str, message: str) -> None:
    answer = server.client.post(path, content=PICTURE)
    assert refused(answer, 422, "invalid_request").startswith(message)


@pytest.mark.parametrize(
    ("path", "headers", "message"),
    [
        ("/embed?format=png", {}, "format png; accepted here are json, npy, npz, safetensors"),
        ("/predict?format=npy", {}, "format npy; accepted here are npz, safetensors, json"),
        ("/embed", {"Accept": "text/html"}, "nothing in Accept: text/html; accepted here are"),
        ("/embed", {"Accept": "application/json;q=0"}, "nothing in Accept: application/json;q=0"),
    ],
)
def test_a_form_that_there_is_not(
    server: Running, path: str, headers: dict[str, str], message: str
) -> None:
    answer = server.client.post(path, content=PICTURE, headers=headers)
    assert refused(answer, 406, "not_acceptable").startswith(message)


def test_a_form_for_one_picture_is_not_for_two(server: Running) -> None:
    two = [("file", ("a", PICTURE)), ("file", ("b", PICTURE))]
    answer = server.client.post("/segment?format=png", files=two)
    message = refused(answer, 406, "not_acceptable")
    assert message == "format png; accepted here for several pictures are npz, safetensors, json"


BODIES: list[tuple[dict[str, Any], int, str, str]] = [
    ({"content": b""}, 422, "invalid_request", "there is no picture in the body; accepted are 1"),
    ({"files": [("file", ("a", b""))]}, 422, "invalid_request", "there is no picture in the body"),
    ({"content": b"text"}, 422, "invalid_image", "image bytes: is not an image; accepted are JPEG"),
    ({"content": PICTURE[:2000]}, 422, "invalid_image", "image bytes: JPEG is truncated"),
    (
        {"content": PICTURE, "headers": {"content-encoding": "gzip"}},
        *(415, "unsupported_media_type", "a compressed body; accepted is one without Content-Enc"),
    ),
    (
        {"content": PICTURE, "headers": {"content-type": "text/plain"}},
        *(415, "unsupported_media_type", "content type text/plain; accepted are image/*"),
    ),
    (
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        *(400, "invalid_request", "the multipart body has no boundary in its Content-Type"),
    ),
    (
        {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        *(400, "invalid_request", "the multipart body is damaged: "),
    ),
    (
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc',
            "headers": {"content-type": "multipart/form-data; boundary=b"},
        },
        *(400, "invalid_request", "the multipart body is truncated"),
    ),
    (
        {"files": [("photo", ("a", PICTURE))]},
        *(422, "invalid_request", "the multipart field 'photo'; accepted is 'file', any number"),
    ),
    ({"json": {}}, 422, "invalid_request", 'the JSON body; accepted is {"image": ...} or'),
    ({"json": {"images": []}}, 422, "invalid_request", "there is no picture in the body"),
    ({"json": {"picture": "x"}}, 422, "invalid_request", "the JSON body: picture: Extra inputs"),
    ({"json": {"image": 3}}, 422, "invalid_request", "the JSON body: image: Input should be a"),
    ({"json": {"image": "%%%"}}, 422, "invalid_request", "an image is not base64: "),
    ({"json": {"image": "data:image/png,abc"}}, 422, "invalid_request", "a data URI without base"),
    (
        {"content": b"{", "headers": {"content-type": "application/json"}},
        *(422, "invalid_request", "the JSON body: "),
    ),
    (
        {"content": encoded(Image.new("L", (301, 100)), "PNG")},
        *(413, "image_too_large", "image bytes: has 301x100 = 30100 pixels; accepted are 30000"),
    ),
    (
        {"files": [("file", (str(n), PICTURE)) for n in range(4)]},
        *(413, "too_large", "the multipart body has more than 3 parts"),
    ),
    (
        {"json": {"images": [base64.b64encode(PICTURE).decode()] * 4}},
        *(413, "too_large", "4 pictures; accepted are 3"),
    ),
    ({"content": b"x" * 200_001}, 413, "too_large", "the body is longer than 200000 bytes"),
    (
        {"content": iter([b"x" * 100_000] * 3)},
        *(413, "too_large", "the body is longer than 200000 bytes"),
    ),
]


@pytest.mark.parametrize(("body", "status", "kind", "message"), BODIES)
def test_a_body_that_is_not_right(
    server: Running, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    answer = server.client.post("/embed", **body)
    assert refused(answer, status, kind).startswith(message)


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/embed", 405, "method_not_allowed"),
        ("POST", "/nothing", 404, "not_found"),
        ("DELETE", "/health/live", 405, "method_not_allowed"),
    ],
)
def test_what_there_is_not(server: Running, method: str, path: str, status: int, kind: str) -> None:
    refused(server.client.request(method, path), status, kind)


def test_a_model_without_a_head_says_what_it_has(tiny_bundle: Path) -> None:
    with serving([load(tiny_bundle, threads=1)]) as running:
        answer = running.client.post("/depth", content=PICTURE)
        message = refused(answer, 422, "invalid_request")
    assert message.startswith("this bundle has no head for depth; its heads are: none")


def test_a_request_id_of_the_clients_is_taken_over_if_it_is_safe(server: Running) -> None:
    client = server.client
    answer = client.post("/embed", content=b"x", headers={"x-request-id": "job-7/a:b"})
    assert answer.headers["x-request-id"] == "job-7/a:b"
    assert answer.json()["error"]["request_id"] == "job-7/a:b"
    for unsafe in ("a b", "x" * 129, 'a"b', ""):
        answer = client.post("/embed", content=b"x", headers={"x-request-id": unsafe})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


def test_the_next_good_request_is_right_after_all_that(server: Running) -> None:
    wanted = server.client.post("/embed?format=npy", content=PICTURE).content
    for body, *_ in BODIES[:-1]:
        server.client.post("/embed", **body)
        assert server.client.post("/embed?format=npy", content=PICTURE).content == wanted


def test_a_message_quotes_only_the_beginning_of_what_was_sent(server: Running) -> None:
    answer = server.client.post("/embed", json={"x" * 100_000: 1})
    message = refused(answer, 422, "invalid_request")
    assert len(message) < 1010
    assert message.endswith("...")
