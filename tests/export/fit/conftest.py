"""Models in arithmetic, labelled pictures, and the place of a cache."""

from __future__ import annotations

from pathlib import Path

import pytest
from cached_features import SIZE, Spied
from fit_pictures import write_segmentation

from clsspec_serve.bundle import open_bundle
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model


@pytest.fixture
def arithmetic(tiny_bundle: Path) -> Model:
    """A model whose features are the mean colours of the patches."""
    return start(open_bundle(tiny_bundle), engine="onnxruntime")


@pytest.fixture
def spied(tiny_bundle: Path) -> Spied:
    return Spied(tiny_bundle)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_segmentation(tmp_path / "data", 8, size=SIZE, block=14)
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
