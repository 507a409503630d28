"""How the server is set up."""

from __future__ import annotations

from dataclasses import dataclass

from clsspec_serve.errors import UsageError
from clsspec_serve.images import DEFAULT_MAX_PIXELS


@dataclass(frozen=True)
class Settings:
    """What is accepted from clients, and for how long.

    `body_bytes`: of a request, at most; `bodies_bytes`: of all requests in work together;
    `answers_bytes`: of all answers that are being sent.
    `pictures`: in a request. `pixels`: of a picture. `seconds`: for reading a request, as many for
    answering it, and as many without progress in sending the answer. `connections`: open at the
    same time. `drain_seconds`: from when readiness turns false until no more connections are taken.
    `keys`: one of them is asked for; without any, none is. `url_hosts`: from where pictures are
    fetched that are given by address, as `AllowedHost.parse` reads them; each of them may have
    `body_bytes` and take `fetch_seconds`. Without any host, none is fetched.
    Raises `UsageError` for a key that no header can carry.
    """

    body_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    answers_bytes: int = 1152 << 20
    pictures: int = 32
    pixels: int = DEFAULT_MAX_PIXELS
    seconds: float = 30.0
    connections: int = 1024
    drain_seconds: float = 0.0
    keys: tuple[str, ...] = ()
    url_hosts: tuple[str, ...] = ()
    fetch_seconds: float = 5.0

    def __post_init__(self) -> None:
        for key in self.keys:
            if not key or not key.isprintable() or " " in key:
                raise UsageError("an API key is empty, or has spaces or control characters")
