"""What most tests of data sets begin with."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_sources import as_folder, named
from http_server import colour_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle with three heads."""
    return colour_bundle(tmp_path / "colours")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten pictures, three shards of four, of which the seventh is none."""
    return as_folder(tmp_path / "set", named(10) | {"006.png": b"no picture"})
