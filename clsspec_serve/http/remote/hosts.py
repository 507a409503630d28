"""Which addresses pictures are fetched from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from clsspec_serve.errors import UsageError, one_line
from clsspec_serve.http.errors import Refused

HTTPS = 443
_ANY = "*."
# The last label has a letter first: what ends in a number is read as an IPv4 address, in decimal,
# octal or hexadecimal (WHATWG URL, 3.5), and those are nobody's names.
_NAME = re.compile(r"(?:[a-z0-9_-]+\.)*[a-z][a-z0-9-]*")


@dataclass(frozen=True)
class AllowedHost:
    """A host, or all hosts below a domain, and the one port that is taken of them."""

    name: str
    subdomains: bool
    port: int

    @classmethod
    def parse(cls, text: str) -> AllowedHost:
        """Read `example.org`, `*.example.org` or either with `:8443`; raises `UsageError`."""
        subdomains = text.startswith(_ANY)
        try:
            url = httpx.URL(f"https://{text.removeprefix(_ANY)}")
        except httpx.InvalidURL as error:
            raise _no_host(text, one_line(error)) from error
        name = url.raw_host.decode("ascii")
        if url.userinfo or url.raw_path != b"/" or url.fragment or text.endswith(("/", "?", "#")):
            raise _no_host(text, "it is more than a name and a port")
        if not _NAME.fullmatch(name):
            raise _no_host(text, "it is no name of a host")
        return cls(name, subdomains, port_of(url))

    def covers(self, name: str, port: int) -> bool:
        """Whether an address with this host (lower case, ASCII) and port is one of these."""
        below = name.endswith(f".{self.name}") and len(name) > len(self.name) + 1
        return port == self.port and (below if self.subdomains else name == self.name)


def allowed(text: str, hosts: Sequence[AllowedHost]) -> httpx.URL:
    """The address, if pictures are fetched from there; raises `Refused` (422)."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise Refused(422, f"the address of a picture cannot be read: {one_line(error)}") from error
    if url.scheme != "https":
        raise Refused(422, f"the address of a picture with {url.scheme[:20]}:; accepted is https:")
    if url.userinfo:
        raise Refused(422, "the address of a picture with a user or password; accepted is none")
    name, port = url.raw_host.decode("ascii"), port_of(url)
    if not any(host.covers(name, port) for host in hosts):
        raise Refused(
            422, f"{name[:200]}:{port} is not among the hosts that pictures are fetched from"
        )
    return url


def port_of(url: httpx.URL) -> int:
    """The port, also where the address leaves it out."""
    return HTTPS if url.port is None else url.port


def _no_host(text: str, reason: str) -> UsageError:
    return UsageError(
        f"not a host to fetch pictures from: got {text!r} ({reason}); accepted are example.org, "
        "*.example.org and example.org:8443"
    )
