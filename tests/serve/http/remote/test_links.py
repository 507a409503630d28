"""Pictures by address in requests to the real server, with a host that is really there."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
from http_server import Running, colour_bundle, serving
from picture_host import NAME, Certificate, Internet, PictureHost, certificate, page
from pictures import PHOTO, encoded

from clsspec_serve import load
from clsspec_serve.http.errors import Refused
from clsspec_serve.http.quota import Quota
from clsspec_serve.http.remote import links
from clsspec_serve.http.remote.links import Link, Links
from clsspec_serve.http.remote.outside import Outside
from clsspec_serve.http.settings import Settings
from clsspec_serve.http.times import Times

PICTURE = encoded(PHOTO, "JPEG")
OTHER = encoded(PHOTO.rotate(90), "PNG")
TEXT = base64.b64encode(PICTURE).decode()
SETTINGS = Settings(url_hosts=(NAME,), body_bytes=1 << 20, bodies_bytes=4 << 20)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def host(own: Certificate, monkeypatch: pytest.MonkeyPatch) -> Iterator[PictureHost]:
    made = PictureHost({"/a.jpg": page(PICTURE), "/b.png": page(OTHER)})
    outside = Internet(made).outside(own.trust())
    monkeypatch.setattr(Outside, "real", lambda: outside)
    with made.running(own):
        yield made


@pytest.fixture
def server(host: PictureHost, tmp_path: Path) -> Iterator[Running]:
    with serving([load(colour_bundle(tmp_path / "colours"), threads=1)], None, SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    bundle = colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")
    with serving([load(bundle, threads=1)]) as running:
        yield running


def at(path: str) -> str:
    return f"https://{NAME}{path}"


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    problem = answer.json()["error"]
    return answer.status_code, problem["type"], problem["message"]


def body_bytes(server: Running) -> float:
    text = server.client.get("/metrics").text
    (value,) = re.findall(r"^clsspec_body_bytes (\S+)$", text, flags=re.MULTILINE)
    return float(value)


def test_a_picture_by_address_is_answered_as_its_bytes_are(server: Running) -> None:
    fetched = server.client.post("/segment", json={"image": at("/a.jpg")})
    assert fetched.status_code == 200, fetched.text
    assert fetched.content == server.client.post("/segment", content=PICTURE).content
    assert re.match(r"fetch;dur=[\d.]+, decode;", fetched.headers["server-timing"])


def test_addresses_and_base64_go_together_and_keep_their_order(server: Running) -> None:
    images = [at("/b.png"), TEXT, at("/a.jpg")]
    results = server.client.post("/embed", json={"images": images}).json()["results"]
    sent = [base64.b64encode(each).decode() for each in (OTHER, PICTURE, PICTURE)]
    wanted = server.client.post("/embed", json={"images": sent}).json()["results"]
    assert [each["cls"] for each in results] == [each["cls"] for each in wanted]


def test_embeddings_in_openai_s_form_take_addresses_too(server: Running) -> None:
    name = server.client.get("/model").json()["name"]
    answers = [
        server.client.post("/v1/embeddings", json={"model": name, "input": given})
        for given in (at("/a.jpg"), TEXT, [TEXT, at("/none")])
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 424]
    assert answers[0].json()["data"] == answers[1].json()["data"]


def test_an_address_that_fails_spoils_only_its_own_answer(server: Running) -> None:
    images = [at("/a.jpg"), "https://10.0.0.1/", at("/none"), TEXT, "file:///etc/passwd"]
    answer = server.client.post("/embed", json={"images": images})
    assert answer.status_code == 207
    results = answer.json()["results"]
    kinds = [each.get("error", {}).get("type") for each in results]
    assert kinds == [None, "invalid_request", "not_fetched", None, "invalid_request"]
    assert results[0]["cls"] == results[3]["cls"]


def test_where_all_fail_the_first_says_why(server: Running) -> None:
    answer = server.client.post("/embed", json={"images": [at("/none"), "https://10.0.0.1/"]})
    assert error_of(answer)[:2] == (424, "not_fetched")
    assert error_of(answer)[2].startswith(f"picture 0: cannot fetch the picture from {NAME}: ")
    answer = server.client.post("/embed", json={"image": "https://10.0.0.1/"})
    assert error_of(answer) == (
        422,
        "invalid_request",
        "10.0.0.1:443 is not among the hosts that pictures are fetched from",
    )


def test_what_is_fetched_may_be_no_picture(server: Running, host: PictureHost) -> None:
    host.pages["/a.jpg"] = page(b"<html>")
    answer = server.client.post("/embed", json={"image": at("/a.jpg")})
    assert error_of(answer)[:2] == (422, "invalid_image")
    host.pages["/a.jpg"] = page(bytes(SETTINGS.body_bytes + 1))
    answer = server.client.post("/embed", json={"image": at("/a.jpg")})
    assert error_of(answer)[:2] == (413, "too_large")


def test_bytes_fetched_count_as_those_of_bodies_do(server: Running, host: PictureHost) -> None:
    going = Event()

    def halting(handler: BaseHTTPRequestHandler) -> None:
        going.wait(SETTINGS.fetch_seconds)
        page(PICTURE)(handler)

    host.pages["/large"] = page(PICTURE + bytes((1 << 20) - len(PICTURE)))
    host.pages["/halting"] = halting
    images = [at("/large")] * 3 + [at("/halting")]
    counted: list[float] = []

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            asking = asyncio.create_task(client.post("/embed", json={"images": images}))
            end = time.monotonic() + 10
            while (used := await asyncio.to_thread(body_bytes, server)) < 3 << 20:
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
            counted.append(used)
            # Of the fourth mebibyte the requests' own bodies have a little.
            busy = await client.post("/embed", json={"images": [at("/large")] * 2})
            assert error_of(busy)[:2] == (429, "busy")
            going.set()
            return await asking

    assert asyncio.run(ask()).status_code == 200
    assert 3 << 20 <= counted[0] <= 4 << 20
    assert body_bytes(server) == 0


def test_without_named_hosts_no_address_is_fetched(plain: Running) -> None:
    for address in (at("/a.jpg"), "http://127.0.0.1/", "HTTPS://a.org"):
        status, kind, message = error_of(plain.client.post("/embed", json={"image": address}))
        assert (status, kind) == (422, "invalid_request")
        assert "this server fetches none (--url-host)" in message
    answer = plain.client.post("/embed", json={"images": [at("/a.jpg"), TEXT]})
    assert answer.status_code == 207


def test_without_named_hosts_there_is_no_http_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: Any) -> Any:
        raise AssertionError("made one")

    monkeypatch.setattr(links, "_fetcher", fail)
    Links(Settings(), Quota(1))
    with pytest.raises(AssertionError, match="made one"):
        Links(SETTINGS, Quota(1))


def follow(made: Links, *addresses: str) -> list[bytes | Exception]:
    async def run() -> list[bytes | Exception]:
        async with made.followed([Link(address) for address in addresses], Times()) as found:
            return found

    return asyncio.run(run())


def test_more_than_may_be_fetched_together_wait(
    host: PictureHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = most = 0

    def counting(handler: BaseHTTPRequestHandler) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.1)
        page(PICTURE)(handler)
        now -= 1

    host.pages["/a.jpg"] = counting
    monkeypatch.setattr(links, "TOGETHER", 2)
    found = follow(Links(SETTINGS, Quota(1 << 20)), *[at("/a.jpg")] * 6)
    assert found == [PICTURE] * 6
    assert most == 2


def test_what_failed_or_was_given_up_holds_nothing(host: PictureHost) -> None:
    quota = Quota(4 << 20)
    made = Links(replace(SETTINGS, fetch_seconds=0.5), quota)

    def half(handler: BaseHTTPRequestHandler) -> None:
        page(bytes(1 << 19), Content_Length=str(1 << 20))(handler)
        time.sleep(1)

    host.pages["/half"] = half

    async def run() -> None:
        async with made.followed([Link(at("/half")), Link(at("/a.jpg"))], Times()) as found:
            assert isinstance(found[0], Refused)
            assert found[1] == PICTURE
            assert quota.used == len(PICTURE)
        assert quota.used == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), made.followed([Link(at("/half"))], Times()):
                pass
        assert quota.used == 0

    asyncio.run(run())
