"""Binary data from those who mean no good, or who cannot count."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from http_server import Running, colour_bundle, serving
from hypothesis import given
from hypothesis import strategies as st
from pictures import PHOTO, encoded

from clsspec_serve import load
from clsspec_serve.http.errors import Refused
from clsspec_serve.http.inference_protocol.binary import HEADER, elements, split
from clsspec_serve.http.settings import Settings

PICTURE = encoded(PHOTO, "JPEG")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")
    with serving([load(bundle, threads=1)], settings=Settings(pictures=3)) as running:
        yield running


def element(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def request(
    binary: bytes, shape: list[int] | None = None, size: Any = None, **changes: Any
) -> tuple[bytes, bytes]:
    """The JSON of a request whose `size` is sound unless given, and the data."""
    tensor = {
        "name": "image",
        "shape": shape or [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(binary) if size is None else size},
    }
    outputs = [{"name": "cls"}]
    return json.dumps({"inputs": [tensor | changes], "outputs": outputs}).encode(), binary


def infer(server: Running, content: bytes, length: str | bytes | int | None) -> httpx.Response:
    given = str(length).encode() if isinstance(length, str | int) else length
    headers = {} if given is None else {HEADER.encode(): given}
    return server.client.post("/v2/models/tiny/infer", content=content, headers=headers)


def assert_refused(answer: httpx.Response, words: str = "") -> None:
    assert 400 <= answer.status_code < 500, answer.text
    assert words in answer.json()["error"]


def test_a_sound_request_is_answered(server: Running) -> None:
    text, binary = request(element(PICTURE))
    answer = infer(server, text + binary, len(text))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["shape"] == [1, 4]


@pytest.mark.parametrize(
    "length",
    ["-1", "+9", "0", "1", "1.0", "1e2", "0x10", "1_0", "", "ten", "9" * 19, "9" * 5000, b"\xb2"],
)
def test_a_wrong_length_of_the_json_is_refused(server: Running, length: str | bytes) -> None:
    text, binary = request(element(PICTURE))
    assert_refused(infer(server, text + binary, length))


@pytest.mark.parametrize("off", [-1, 1, 4])
def test_a_length_that_is_a_little_off_is_refused(server: Running, off: int) -> None:
    text, binary = request(element(PICTURE))
    assert_refused(infer(server, text + binary, len(text) + off))


def test_a_length_beyond_the_body_is_refused(server: Running) -> None:
    text, binary = request(element(PICTURE))
    whole = text + binary
    assert_refused(infer(server, whole, len(whole) + 1), f"the body has {len(whole)} bytes")


def test_binary_data_without_the_header_are_refused(server: Running) -> None:
    text, binary = request(element(PICTURE))
    assert_refused(infer(server, text + binary, None), "JSON")
    assert_refused(infer(server, text, None), "0 bytes follow the JSON")


@pytest.mark.parametrize("size", [-1, 0, 1, 1 << 31, 1 << 63, 1 << 80, 1.5, "many", [], {}])
def test_a_wrong_binary_data_size_is_refused(server: Running, size: Any) -> None:
    text, binary = request(element(PICTURE), size=size)
    assert_refused(infer(server, text + binary, len(text)))


@pytest.mark.parametrize(
    ("binary", "shape", "words"),
    [
        (b"", [1], "within element 0 of 1"),
        (b"\x01", [1], "within element 0 of 1"),
        (b"\x00\x00\x00", [1], "within element 0 of 1"),
        (b"\xff\xff\xff\xff", [1], "within element 0 of 1"),
        (b"\xff\xff\xff\xff" + PICTURE, [1], "within element 0 of 1"),
        (element(PICTURE)[:-1], [1], "within element 0 of 1"),
        (element(PICTURE), [2], "within element 1 of 2"),
        (element(PICTURE) + b"\x00", [1], "1 bytes after 1 elements"),
        (element(PICTURE) * 2, [1], f"{len(PICTURE) + 4} bytes after 1 elements"),
        (element(PICTURE), [1 << 62], "accepted are 3"),
        (element(b""), [1], "empty"),
        (element(PICTURE) + element(b""), [2], "picture 1: image bytes: is empty"),
    ],
)
def test_elements_that_do_not_fit_are_refused(
    server: Running, binary: bytes, shape: list[int], words: str
) -> None:
    text, _ = request(binary, shape)
    assert_refused(infer(server, text + binary, len(text)), words)


def test_data_in_both_places_are_refused(server: Running) -> None:
    text, binary = request(element(PICTURE), data=["aGFsbG8="])
    assert_refused(infer(server, text + binary, len(text)), "one of them")


@pytest.mark.parametrize("text", [b"", b"\xff", b"null", b"[]", b"[" * 5000, b'{"inputs": NaN}'])
def test_what_is_no_json_is_refused(server: Running, text: bytes) -> None:
    assert_refused(infer(server, text + element(PICTURE), len(text)), "the JSON body")


def test_no_mutation_of_a_request_fails_the_server(server: Running) -> None:
    chance = random.Random(0)
    text, binary = request(element(PICTURE) * 2, [2])
    statuses = []
    for _ in range(300):
        content, length = bytearray(text + binary), len(text)
        # Most of the body is picture, where damage is the decoder's affair.
        reach = chance.choice([len(text) + 8, len(content)])
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(min(reach, len(content)))
            match chance.randrange(4):
                case 0:
                    content[place] = chance.randrange(256)
                case 1:
                    del content[place : place + chance.randint(1, 9)]
                case 2:
                    content[place:place] = chance.randbytes(chance.randint(1, 9))
                case 3:
                    length += chance.randint(-5, 5)
        answer = infer(server, bytes(content), length)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
        assert answer.is_success or isinstance(answer.json()["error"], str)
        statuses.append(answer.status_code)
    assert {200, 400} <= set(statuses)
    assert infer(server, text + binary, len(text)).status_code == 200


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_elements_are_what_was_packed(packed: list[bytes]) -> None:
    data = memoryview(b"".join(map(element, packed)))
    assert elements(data, len(packed)) == packed


@given(st.binary(max_size=60), st.integers(0, 5))
def test_elements_cover_the_data_or_are_refused(data: bytes, count: int) -> None:
    try:
        found = elements(memoryview(data), count)
    except Refused:
        return
    assert b"".join(map(element, found)) == data


@given(st.binary(max_size=40), st.one_of(st.text(max_size=30), st.integers(-5, 50).map(str)))
def test_a_body_is_split_in_two_or_refused(body: bytes, length: str) -> None:
    try:
        text, rest = split(body, length)
    except Refused:
        return
    assert text + bytes(rest) == body
    assert len(text) == int(length)


def test_numbers_are_little_endian(server: Running) -> None:
    picture = encoded(PHOTO.convert("L").point(lambda _: 8).convert("RGB"), "PNG")
    text, binary = request(element(picture))
    wanted = json.loads(text) | {"parameters": {"binary_data_output": True}}
    text = json.dumps(wanted).encode()
    answer = infer(server, text + binary, len(text))
    length = int(answer.headers[HEADER])
    assert answer.content[length:] == b"\x00\x00\x00\x41" * 3 + b"\x00\x00\x80\x3f"
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == [8, 8, 8, 1]
