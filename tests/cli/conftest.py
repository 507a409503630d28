from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import Clsspec, Result, run, save_picture
from numpy.typing import NDArray

from clsspec_serve import loading
from clsspec_serve.engines.protocol import Engine, Values


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CLSSPEC_"):
            monkeypatch.delenv(name)


@pytest.fixture
def clsspec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Clsspec:
    """Run the command line in this process."""

    def call(*arguments: str | Path) -> Result:
        return run(arguments, monkeypatch, capsys)

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of seed 0, in a folder of its own."""
    return save_picture(tmp_path / "pictures" / "photo.png")


class Spy:
    """The graphs that were loaded, with what options, and what the engine was asked for."""

    def __init__(self) -> None:
        self.loaded: list[tuple[Path, dict[str, Any]]] = []
        self.asked: list[tuple[tuple[int, ...], list[str]]] = []

    def load(self, graph: Path, **options: Any) -> Engine:
        self.loaded.append((graph, options))
        engine = self._load(graph, **options)
        run = engine.run

        def spied(inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
            self.asked.append((next(iter(inputs.values())).shape, list(outputs)))
            return run(inputs, outputs)

        engine.run = spied  # type: ignore[method-assign]  # what a spy does
        return engine

    _load = staticmethod(loading.load_engine)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Watches the real engines."""
    spy = Spy()
    monkeypatch.setattr(loading, "load_engine", spy.load)
    return spy


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle of a tiny ViT with random weights, specialized; not to be changed."""
    from standins.backbones import made_once
    from tiny_architecture import NAME

    from clsspec_export.checkpoints.source import load_checkpoint
    from clsspec_export.export import export_bundle, lift

    def make(folder: Path) -> None:
        checkpoint, origin = load_checkpoint(f"random:{NAME}")
        export_bundle(lift(checkpoint), folder / "toy", origin)

    return made_once(tmp_path_factory, "exported", make) / "toy"
