from __future__ import annotations

import pytest

from clsspec_serve.http.remote.public import is_public


@pytest.mark.parametrize(
    "address",
    [
        *("93.184.215.14", "1.1.1.1", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"),
        "::ffff:1.1.1.1",  # mapped
        "2002:101:101::1",  # 6to4
        "64:ff9b::101:101",  # NAT64
    ],
)
def test_addresses_in_the_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
        *("169.254.169.254", "0.0.0.0", "0.1.2.3", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *("255.255.255.255", "192.0.2.1", "198.18.0.1", "203.0.113.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1"),
        *("ff02::1", "ff0e::1", "2001:db8::1", "2001::1", "100::1", "4000::1", "64:ff9b:1::1"),
        *("::127.0.0.1", "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::ffff:10.0.0.1"),
        *("2002:7f00:1::1", "2002:a00:1::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    ],
)
def test_addresses_that_are_none_of_it(address: str) -> None:
    assert not is_public(address)
