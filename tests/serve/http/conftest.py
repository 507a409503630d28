"""The bundle that most of the server's tests serve, and the same model called from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from http_server import colour_bundle

from clsspec_serve import Model, load


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `colour_bundle`."""
    return colour_bundle(tmp_path_factory.mktemp("bundle") / "colours")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    """In this process, without a server."""
    return load(bundle, threads=1)
