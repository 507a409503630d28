"""The bundle that most tests serve, its model called from Python, a gate before it, a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from held_server import Gate
from http_server import Running, colour_bundle, serving

from clsspec_serve import Model, load

if TYPE_CHECKING:
    from playwright.sync_api import Browser  # only the tests of pages need it


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `colour_bundle`."""
    return colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    """In this process, without a server."""
    return load(bundle, threads=1)


@pytest.fixture(scope="module")
def colours(bundle: Path) -> Iterator[Running]:
    """A server of that bundle."""
    with serving([load(bundle, threads=1)]) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """See `chromium`."""
    from browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Open in the end, whatever a test left waiting."""
    made = Gate()
    yield made
    made.open()
