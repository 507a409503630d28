from __future__ import annotations

import socket

import pytest

from clsspec_serve.errors import UsageError
from clsspec_serve.http.server import listen


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", "AF_INET"), ("::1", "AF_INET6")])
def test_connections_are_of_a_protocol_that_asyncio_sends_without_delay(
    host: str, family: str
) -> None:
    try:
        listener = listen(host, 0)
    except UsageError:
        pytest.skip(f"no address {host} on this machine; one with IPv6 runs this")
    with listener, socket.create_connection(listener.getsockname()[:2]) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.family == getattr(socket, family)
            # asyncio's base_events._set_nodelay asks for exactly this.
            assert accepted.proto == socket.IPPROTO_TCP
            client.close()


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("no.such.host.invalid", 0, "cannot listen on no.such.host.invalid:0: "),
        ("192.0.2.1", 0, "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
    ],
)
def test_an_address_that_cannot_be_had_is_one_line(host: str, port: int, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        listen(host, port)
    assert str(error.value).startswith(reason)
    assert "\n" not in str(error.value)
