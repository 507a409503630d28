"""Against a real server, over real TLS; only where its name leads is made up."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from picture_host import (
    NAME,
    PUBLIC,
    Certificate,
    Internet,
    PictureHost,
    certificate,
    page,
    redirect,
)

from clsspec_serve.errors import Busy
from clsspec_serve.http.errors import Refused
from clsspec_serve.http.quota import Hold, Quota
from clsspec_serve.http.remote import fetcher
from clsspec_serve.http.remote.fetcher import Fetcher
from clsspec_serve.http.remote.hosts import AllowedHost

CONTENT = bytes(range(256)) * 1000
MOST = 1 << 20
URL = f"https://{NAME}/a.jpg?b=c"
HOSTS = tuple(AllowedHost.parse(text) for text in (NAME, "*.elsewhere.org", f"{NAME}:8443"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def host(own: Certificate) -> Iterator[PictureHost]:
    made = PictureHost({"/a.jpg?b=c": page(CONTENT)})
    with made.running(own):
        yield made


@pytest.fixture
def internet(host: PictureHost) -> Internet:
    return Internet(host)


def fetch(
    internet: Internet,
    trust: ssl.SSLContext | Certificate,
    url: str = URL,
    *,
    seconds: float = 10.0,
    hold: Hold | None = None,
) -> bytes:
    context = trust.trust() if isinstance(trust, Certificate) else trust
    made = Fetcher(HOSTS, MOST, seconds, internet.outside(context))
    return asyncio.run(made.fetch(url, hold or Hold(Quota(MOST))))


def refused(
    internet: Internet, trust: ssl.SSLContext | Certificate, status: int, url: str = URL
) -> str:
    with pytest.raises(Refused) as error:
        fetch(internet, trust, url)
    assert error.value.status == status, error.value
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_picture_comes_from_the_address_that_was_checked(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    quota = Quota(MOST)
    with quota.held() as hold:
        assert fetch(internet, own, hold=hold) == CONTENT
        assert quota.used == len(CONTENT)
    assert internet.looked_up == [NAME]
    assert internet.connected == [(PUBLIC, 443)]
    ((path, headers),) = host.asked
    assert path == "/a.jpg?b=c"
    # The server is told the name, in TLS and in HTTP, and nothing of the client.
    assert host.names == [NAME]
    assert headers["host"] == NAME
    assert headers["accept-encoding"] == "identity"
    assert set(headers) == {"host", "user-agent", "accept", "accept-encoding", "connection"}


def test_another_port_is_one_that_the_list_names(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    fetch(internet, own, f"https://{NAME}:8443/a.jpg?b=c")
    assert internet.connected == [(PUBLIC, 8443)]
    assert host.asked[0][1]["host"] == f"{NAME}:8443"


def test_no_proxy_of_the_environment_is_used(
    internet: Internet, own: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://10.0.0.1:3128")
    assert fetch(internet, own) == CONTENT
    assert internet.connected == [(PUBLIC, 443)]


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "::1", "::ffff:127.0.0.1", "fe80::1%1"],
)
@pytest.mark.parametrize("company", [[], [PUBLIC]])
def test_a_name_that_leads_inside_is_not_followed(
    internet: Internet, own: Certificate, address: str, company: list[str]
) -> None:
    internet.answers[NAME] = [[*company, address]]
    internet.reachable = (address, PUBLIC)
    assert refused(internet, own, 422) == f"{NAME} leads to an address that is not public"
    assert internet.connected == []


def test_a_name_that_leads_elsewhere_the_second_time_does_not_matter(
    internet: Internet, own: Certificate
) -> None:
    internet.answers[NAME] = [[PUBLIC], ["127.0.0.1"]]
    internet.reachable = (PUBLIC, "127.0.0.1")
    assert fetch(internet, own) == CONTENT
    assert internet.looked_up == [NAME]
    assert internet.connected == [(PUBLIC, 443)]


def test_after_a_redirect_it_is_looked_up_and_checked_again(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    host.pages["/first"] = redirect("/a.jpg?b=c")
    internet.answers[NAME] = [[PUBLIC], ["127.0.0.1"]]
    internet.reachable = (PUBLIC, "127.0.0.1")
    assert "not public" in refused(internet, own, 422, f"https://{NAME}/first")
    assert internet.connected == [(PUBLIC, 443)]


def test_where_one_address_is_dead_the_next_is_taken(internet: Internet, own: Certificate) -> None:
    internet.answers[NAME] = [["2606:4700::1", PUBLIC]]
    assert fetch(internet, own) == CONTENT
    assert internet.connected == [("2606:4700::1", 443), (PUBLIC, 443)]


def test_a_name_without_an_address(internet: Internet, own: Certificate) -> None:
    for answers in ({}, {NAME: [[]]}):
        internet.answers = answers
        assert refused(internet, own, 424).endswith(f"from {NAME}: its name has no address")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(
    host: PictureHost, internet: Internet, own: Certificate, status: int
) -> None:
    host.pages["/first"] = redirect("a.jpg?b=c#part", status)
    assert fetch(internet, own, f"https://{NAME}/first") == CONTENT


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("https://inside.elsewhere.org/", "leads to an address that is not public"),
        ("https://127.0.0.1/", "not among the hosts"),
        ("https://2130706433/", "not among the hosts"),
        ("https://[::1]/", "not among the hosts"),
        ("//evil.com/", "not among the hosts"),
        (f"http://{NAME}/a.jpg?b=c", "accepted is https"),
        ("file:///etc/passwd", "accepted is https"),
        (f"https://user:password@{NAME}/a.jpg?b=c", "user or password"),
        (f"https://{NAME}:22/", "not among the hosts"),
    ],
)
def test_each_redirect_is_checked_as_the_address_is(
    host: PictureHost, internet: Internet, own: Certificate, location: str, reason: str
) -> None:
    host.pages["/first"] = redirect(location)
    internet.answers["inside.elsewhere.org"] = [["10.0.0.1"]]
    internet.reachable = (PUBLIC, "10.0.0.1", "127.0.0.1", "::1")
    assert reason in refused(internet, own, 422, f"https://{NAME}/first")
    assert len(internet.connected) == len(host.asked) == 1


def test_not_more_redirects_than_are_followed(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    for index in range(10):
        host.pages[f"/{index}"] = redirect(f"/{index + 1}")
    host.pages["/10"] = page(CONTENT)
    assert fetch(internet, own, f"https://{NAME}/{10 - fetcher.REDIRECTS}") == CONTENT
    before = len(host.asked)
    reason = refused(internet, own, 424, f"https://{NAME}/{9 - fetcher.REDIRECTS}")
    assert reason.endswith("more than 5 redirects")
    assert len(host.asked) - before == fetcher.REDIRECTS + 1


@pytest.mark.parametrize(
    ("location", "reason"), [("", "leads nowhere"), ("https://a:b/", "its redirect cannot be read")]
)
def test_a_redirect_to_nowhere(
    host: PictureHost, internet: Internet, own: Certificate, location: str, reason: str
) -> None:
    host.pages["/a.jpg?b=c"] = redirect(location)
    assert reason in refused(internet, own, 424)


def test_a_body_without_end_is_left_at_the_limit(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while sent < 100 * MOST:
            handler.wfile.write(bytes(1 << 16))
            sent += 1 << 16

    host.pages["/a.jpg?b=c"] = endless
    quota = Quota(10 * MOST)
    with quota.held() as hold, pytest.raises(Refused, match=f"longer than {MOST}") as error:
        fetch(internet, own, hold=hold)
    assert error.value.status == 413
    assert hold.bytes <= MOST
    assert MOST <= sent < 20 * MOST


def test_what_announces_too_much_is_not_read(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    def announcing(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(MOST + 1))
        handler.end_headers()

    host.pages["/a.jpg?b=c"] = announcing
    start = time.monotonic()
    assert f"longer than {MOST} bytes" in refused(internet, own, 413)
    assert time.monotonic() - start < 5


def test_no_more_bytes_are_taken_than_there_is_room_for(
    internet: Internet, own: Certificate
) -> None:
    quota = Quota(len(CONTENT))
    with quota.held() as other, quota.held() as hold:
        other.reach(1)
        with pytest.raises(Busy):
            fetch(internet, own, hold=hold)
    assert quota.used == 0


def test_a_slow_body_is_left_when_its_time_is_up(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    def dripping(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(50):
            handler.wfile.write(b".")
            time.sleep(0.1)

    host.pages["/a.jpg?b=c"] = dripping
    start = time.monotonic()
    with pytest.raises(Refused, match=r"it took longer than 0\.5 s") as error:
        fetch(internet, own, seconds=0.5)
    assert error.value.status == 424
    assert 0.4 < time.monotonic() - start < 3


def test_a_slow_resolver_counts_too(internet: Internet, own: Certificate) -> None:
    class Slow(Internet):
        async def resolve(self, host: str, port: int) -> list[str]:
            await asyncio.sleep(30)
            return [PUBLIC]

    with pytest.raises(Refused, match="it took longer"):
        fetch(Slow(internet.host), own, seconds=0.2)


def test_an_encoded_answer_is_refused(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    bomb = gzip.compress(bytes(100 * MOST))
    assert len(bomb) < MOST
    host.pages["/a.jpg?b=c"] = page(bomb, Content_Encoding="gzip")
    assert "encoded as gzip, which was not asked for" in refused(internet, own, 424)
    host.pages["/a.jpg?b=c"] = page(bomb, Transfer_Encoding="gzip")
    refused(internet, own, 424)


def test_a_certificate_for_another_name_is_refused(
    tmp_path: Path, host: PictureHost, internet: Internet
) -> None:
    other = certificate(tmp_path, "other.example.org")
    with host.running(other):
        reason = refused(internet, other, 424)
    assert "certificate" in reason
    assert "Hostname mismatch" in reason
    assert host.asked == []


def test_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path, host: PictureHost, internet: Internet
) -> None:
    stranger = certificate(tmp_path)
    assert "certificate" in refused(internet, stranger, 424)
    assert host.asked == []


@pytest.mark.parametrize("status", [204, 206, 304, 404, 500])
def test_only_200_is_a_picture(
    host: PictureHost, internet: Internet, own: Certificate, status: int
) -> None:
    host.pages["/a.jpg?b=c"] = page(b"", status)
    assert refused(internet, own, 424).endswith(f"from {NAME}: HTTP {status}")


def test_a_body_that_ends_early_is_none(
    host: PictureHost, internet: Internet, own: Certificate
) -> None:
    host.pages["/a.jpg?b=c"] = page(CONTENT, Content_Length=str(len(CONTENT) + 1))
    refused(internet, own, 424)


def test_where_nobody_is(internet: Internet, own: Certificate) -> None:
    internet.reachable = ()
    assert "nobody is there" in refused(internet, own, 424)
