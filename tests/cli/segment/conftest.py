"""A bundle whose head knows the colours of landscapes, and a landscape."""

from __future__ import annotations

from pathlib import Path

import head_bundle as by_hand
import pytest
from landscapes import COLOURS, SLIDING, landscape, save


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    head = by_hand.nearest_colour_head(COLOURS, SLIDING)
    return by_hand.write_head_bundle(tmp_path / "bundle", [head])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return save(tmp_path / "pictures" / "photo.png", landscape(97, 150))
