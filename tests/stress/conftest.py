"""Long suites: a seeded tenth of each runs with all tests, all of it with `--stress`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from http_server import Running, colour_bundle, serving

from clsspec_serve import load
from clsspec_serve.http.settings import Settings


@pytest.fixture(scope="session")
def tenth(request: pytest.FixtureRequest) -> bool:
    """Whether this run is the short one."""
    return not request.config.getoption("--stress")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose model computes next to nothing, so that the rest is what is tested."""
    bundle = colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")
    settings = Settings(body_bytes=1 << 20, pixels=1_000_000, seconds=20)
    with serving([load(bundle, threads=1)], settings=settings) as running:
        yield running
