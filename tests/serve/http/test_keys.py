from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from http_server import Running, colour_bundle, serving
from pictures import PHOTO, encoded

from clsspec_serve import load
from clsspec_serve.errors import UsageError
from clsspec_serve.http.settings import Settings

PICTURE = encoded(PHOTO, "JPEG")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")
    with serving([load(bundle, threads=1)], settings=Settings(keys=("one", "zwei-ü"))) as running:
        yield running


def ask(server: Running, headers: dict[str, str | bytes]) -> httpx.Response:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        return client.post("/embed", content=PICTURE, headers=headers)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer one"},
        {"authorization": "bearer  one"},
        {"X-API-Key": "one"},
        {"X-API-Key": "zwei-ü".encode()},
        {"Authorization": b"Bearer " + "zwei-ü".encode()},
    ],
)
def test_a_key_opens(server: Running, headers: dict[str, str | bytes]) -> None:
    assert ask(server, headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer ones"},
        {"Authorization": "Bearer on"},
        {"Authorization": "Basic one"},
        {"Authorization": "one"},
        {"X-API-Key": ""},
        {"X-API-Key": "ONE"},
        {"X-API-Key": b"\xff\xfe"},
    ],
)
def test_anything_else_does_not(server: Running, headers: dict[str, str | bytes]) -> None:
    answer = ask(server, headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert error["type"] == "unauthorized"
    assert error["message"] == "a valid API key is needed, as Authorization: Bearer or X-API-Key"
    assert error["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "path",
    [
        *("/health/live", "/health/ready", "/v2/health/live"),
        *("/", "/docs", "/docs/files/swagger-ui.css", "/openapi.json"),
    ],
)
def test_health_and_the_pages_stay_open(server: Running, path: str) -> None:
    assert httpx.get(server.url + path, trust_env=False).status_code == 200


@pytest.mark.parametrize(
    "path", ["/metrics", "/model", "/nothing", "//health/live", "/docs/files", "/docs/"]
)
def test_nothing_else_is_told_to_strangers(server: Running, path: str) -> None:
    assert httpx.get(server.url + path, trust_env=False).status_code == 401


def test_a_body_without_a_key_is_not_read(server: Running) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 200:
            sent += 1
            yield b"x" * 65536

    answer = httpx.post(f"{server.url}/embed", content=endless(), trust_env=False)
    assert answer.status_code == 401


@pytest.mark.parametrize("key", ["", " ", "two words", "line\nbreak"])
def test_a_key_that_no_header_can_carry_is_refused_before_anything_is_served(key: str) -> None:
    with pytest.raises(UsageError, match="an API key is empty, or has spaces or control char"):
        Settings(keys=("good", key))


def test_health_is_there_for_those_who_ask_for_its_headers_alone(server: Running) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = httpx.head(server.url + path, trust_env=False)
        assert (answer.status_code, answer.content) == (200, b"")
