"""The stand-ins for the outside world live in `standins`; their fixtures are for every test."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "stress")]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Of two processes with two threads each on two cores all wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ("standins.backbones", "standins.files", "standins.hub")


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """The folder of a whole bundle; see `tiny_bundle.py` for what it computes."""
    from tiny_bundle import write_tiny_bundle

    return write_tiny_bundle(tmp_path / "tiny")


@pytest.fixture
def own_garbage() -> Iterator[None]:
    """Collections look through what the test itself has made, not through all that is imported."""
    gc.freeze()
    yield
    gc.unfreeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--stress`: see `tests/stress`."""
    parser.addoption("--stress", action="store_true", help="run all of the long suites")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest test comes first, so that the others run beside it and not before it."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
    if not config.getoption("--stress"):
        left_out = pytest.mark.skip(reason="it takes long; `make stress` runs it")
        for item in items:
            if item.get_closest_marker("stress"):
                item.add_marker(left_out)
