"""The bundles that photographs go through."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from exported_heads import Made, make
from standins.backbones import made_once


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The bundle of a kind of backbone, written once for all workers. Not to be changed."""

    @cache
    def get(base: str) -> Made:
        folder = made_once(
            tmp_path_factory,
            f"heads of {base}",
            lambda folder: torch.save(make(base, folder), folder / "made.pt"),
        )
        found: Made = torch.load(folder / "made.pt", weights_only=False)
        return found

    return get
