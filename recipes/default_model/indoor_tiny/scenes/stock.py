"""The furniture and textures of a split, to choose from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indoor_tiny.scenes.bank import Bank
from indoor_tiny.scenes.catalogue import Piece
from indoor_tiny.scenes.meshes import Mesh
from indoor_tiny.scenes.painting import paint
from indoor_tiny.scenes.scene import Paint

STRANGER = 0.08
"""The share of pieces that do not belong into the room where they are put."""


@dataclass(frozen=True)
class Model:
    """A piece with its mesh, and where the bank has its textures."""

    piece: Piece
    mesh: Mesh
    layers: tuple[int, ...]


class Stock:
    """Models by their class, and the bank with all textures."""

    def __init__(self, models: Sequence[Model], bank: Bank) -> None:
        self.bank = bank
        self._by_class: dict[int, list[Model]] = defaultdict(list)
        for model in models:
            self._by_class[model.piece.label].append(model)

    def choose(
        self, label: int, room: int, rng: np.random.Generator, places: Sequence[str]
    ) -> Model | None:
        """A model of a class that goes to one of `places` and mostly belongs into the room."""
        found = [each for each in self._by_class[label] if each.piece.place in places]
        at_home = [each for each in found if room in each.piece.rooms]
        if at_home and rng.uniform() > STRANGER:
            found = at_home
        return found[int(rng.integers(len(found)))] if found else None

    def paints(self, model: Model, rng: np.random.Generator) -> tuple[Paint, ...]:
        """How a model looks this time."""
        return paint(model.mesh, model.layers, model.piece.label, self.bank, rng)

    def texture(self, rng: np.random.Generator, *families: str) -> int:
        """A texture of one of the families."""
        return self.bank.pick(rng, families)
