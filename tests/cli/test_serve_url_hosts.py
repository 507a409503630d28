from __future__ import annotations

from typing import Any

import pytest
from command_line import Clsspec

from clsspec_serve.errors import UsageError
from clsspec_serve.http.settings import Settings


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the log nor the socket of this process are for a server."""
    monkeypatch.setattr("clsspec_serve.http.logs.configure", lambda: None)
    monkeypatch.setattr("clsspec_serve.http.server.listen", lambda host, port: None)


def test_what_is_no_host_is_refused_at_the_start(clsspec: Clsspec) -> None:
    result = clsspec("serve", "--port", "0", "--url-host", "https://example.org/")
    assert result.code == 2
    assert "not a host to fetch pictures from" in result.err.splitlines()[-1]


@pytest.mark.parametrize("from_environment", [False, True])
def test_hosts_come_from_options_and_from_the_environment(
    clsspec: Clsspec, monkeypatch: pytest.MonkeyPatch, from_environment: bool
) -> None:
    given: list[Settings] = []

    def create_app(models: Any, capacity: Any, settings: Settings) -> None:
        given.append(settings)
        raise UsageError("this test starts no server")

    monkeypatch.setattr("clsspec_serve.http.app.create_app", create_app)
    options = ["--url-host", "a.example.org", "--url-host", "*.b.example.org:8443"]
    if from_environment:
        monkeypatch.setenv("CLSSPEC_URL_HOST", " ".join(options[1::2]))
        options = []
    assert clsspec("serve", "--port", "0", *options).code == 2
    assert given[0].url_hosts == ("a.example.org", "*.b.example.org:8443")
    given.clear()
    monkeypatch.delenv("CLSSPEC_URL_HOST", raising=False)
    clsspec("serve", "--port", "0")
    assert given[0].url_hosts == ()
