"""What benchmarks are tested with: a picture, and hardly any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from clsspec_serve.bench import ceiling, preprocessing, rounds

PICTURE = Path(__file__).parent.parent / "examples" / "coffee.jpg"


def make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little work as there can be."""
    monkeypatch.setattr(ceiling, "SQUARES", (16,))
    monkeypatch.setattr(preprocessing, "SECONDS", 0)
    monkeypatch.setattr(rounds, "PAUSE", 0)
    monkeypatch.setattr(rounds, "TURN", 0)
