from __future__ import annotations

from contextlib import suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clsspec_serve.errors import UsageError
from clsspec_serve.http.errors import Refused
from clsspec_serve.http.remote.hosts import AllowedHost, allowed


def hosts(*texts: str) -> list[AllowedHost]:
    return [AllowedHost.parse(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("example.org", AllowedHost("example.org", False, 443)),
        ("Example.ORG:443", AllowedHost("example.org", False, 443)),
        ("*.example.org:8443", AllowedHost("example.org", True, 8443)),
        ("bücher.example", AllowedHost("xn--bcher-kva.example", False, 443)),
        ("localhost", AllowedHost("localhost", False, 443)),
    ],
)
def test_an_entry_of_the_list_is_a_name_and_perhaps_a_port(text: str, host: AllowedHost) -> None:
    assert AllowedHost.parse(text) == host


@pytest.mark.parametrize(
    "text",
    [
        *("", "*", "*.", "**.example.org", "a.*.org", "https://example.org", "example.org/"),
        *("example.org/pictures", "user@example.org", "example.org?a", "example.org#", "."),
        *("example.org.", "127.0.0.1", "2130706433", "0x7f.0.0.0x1", "[::1]", "a.1", "a:b"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"accepted are example\.org, \*\.example\.org") as error:
        AllowedHost.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("example.org", "https://example.org/a.jpg"),
        ("example.org", "https://EXAMPLE.org:443/a.jpg?b=c"),
        ("example.org:8443", "https://example.org:8443/"),
        ("*.example.org", "https://a.example.org/"),
        ("*.example.org", "https://b.a.example.org/"),
        ("bücher.example", "https://bücher.example/"),
    ],
)
def test_addresses_that_an_entry_covers(entry: str, address: str) -> None:
    assert allowed(address, hosts(entry)) == httpx.URL(address)


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("example.org", "https://example.com/"),
        ("example.org", "https://a.example.org/"),
        ("example.org", "https://example.org.evil.com/"),
        ("example.org", "https://example.org./"),
        ("example.org", "https://evilexample.org/"),
        ("example.org", "https://evil.com/example.org"),
        ("*.example.org", "https://example.org/"),
        ("*.example.org", "https://.example.org/"),
        ("*.example.org", "https://evilexample.org/"),
        ("example.org", "https://example.org:8443/"),
        ("example.org", "https://example.org:0/"),
        ("example.org:8443", "https://example.org/"),
        ("example.org", "https://127.0.0.1/"),
        ("example.org", "https://2130706433/"),
        ("example.org", "https://[::ffff:127.0.0.1]/"),
        ("example.org", "https:///example.org"),
        ("example.org", "https:example.org"),
    ],
)
def test_addresses_that_it_does_not_cover(entry: str, address: str) -> None:
    with pytest.raises(Refused, match=r"not among the hosts") as error:
        allowed(address, hosts(entry))
    assert error.value.status == 422


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://example.org/", "with http:; accepted is https:"),
        ("file:///etc/passwd", "with file:"),
        ("gopher://example.org/", "with gopher:"),
        ("//example.org/", "with :"),
        ("https://user@example.org/", "user or password"),
        ("https://user:secret@example.org/", "user or password"),
        ("https://:@example.org/", "user or password"),
        ("https://example.org\\@evil.com/", "user or password"),
        ("https://0177.0.0.1/", "cannot be read"),
        ("https://example.org/\r\nHost: evil.com", "cannot be read"),
        ("https://example.org:port/", "cannot be read"),
    ],
)
def test_only_https_and_nothing_that_hides_the_host(address: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason) as error:
        allowed(address, hosts("example.org"))
    assert error.value.status == 422
    assert "secret" not in str(error.value)


@given(st.one_of(st.text(), st.text().map(lambda text: f"https://{text}")))
def test_whatever_is_given_is_allowed_or_refused(text: str) -> None:
    with suppress(Refused):
        url = allowed(text, hosts("example.org"))
        assert (url.scheme, url.host, url.port) == ("https", "example.org", None)
