"""A model whose backbone and heads are computed without an engine."""

from __future__ import annotations

from pathlib import Path

import dense_network as network
import pytest
from dense_network import Backbone, Heads

from clsspec_serve import Model


@pytest.fixture
def backbone() -> Backbone:
    return Backbone()


@pytest.fixture
def heads() -> Heads:
    return Heads()


@pytest.fixture
def model(tiny_bundle: Path, backbone: Backbone, heads: Heads) -> Model:
    return network.model(tiny_bundle, backbone, heads)
