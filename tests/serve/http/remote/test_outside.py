"""The machine's own resolver, connections and trust; nothing leaves the machine."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from picture_host import Certificate, PictureHost, certificate, page

from clsspec_serve.http.errors import Refused
from clsspec_serve.http.quota import Hold, Quota
from clsspec_serve.http.remote import fetcher
from clsspec_serve.http.remote.fetcher import Fetcher
from clsspec_serve.http.remote.hosts import AllowedHost
from clsspec_serve.http.remote.outside import Outside, resolve

NAME = "localhost"


@pytest.fixture
def own(tmp_path: Path) -> Certificate:
    return certificate(tmp_path, NAME)


def fetch(host: PictureHost) -> bytes:
    made = Fetcher([AllowedHost.parse(f"{NAME}:{host.port}")], 1000, 10.0, Outside.real())
    return asyncio.run(made.fetch(f"https://{NAME}:{host.port}/a.jpg", Hold(Quota(1000))))


def test_the_resolver_gives_addresses() -> None:
    assert set(asyncio.run(resolve(NAME, 443))) <= {"127.0.0.1", "::1"}


def test_certificates_are_asked_for_and_compared() -> None:
    trust = Outside.real().trust
    assert trust.verify_mode == ssl.CERT_REQUIRED
    assert trust.check_hostname
    assert trust.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_a_server_on_this_machine_is_out_of_reach(own: Certificate) -> None:
    host = PictureHost({"/a.jpg": page(b"inside")})
    with host.running(own), pytest.raises(Refused, match="not public"):
        fetch(host)
    assert host.names == []


def test_authorities_of_the_environment_count(
    own: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if this machine were the internet.
    monkeypatch.setattr(fetcher, "is_public", lambda address: True)
    host = PictureHost({"/a.jpg": page(b"trusted")})
    with host.running(own):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate(tmp_path, "other").path))
        with pytest.raises(Refused, match="certificate"):
            fetch(host)
        monkeypatch.setenv("SSL_CERT_FILE", str(own.path))
        assert fetch(host) == b"trusted"
