"""All textures of a split in one array, as a renderer's texture array takes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from indoor_tiny.scenes import textures

SIDE = 256
"""Pixels of a side of every texture."""

_FIRST_SEED = {"train": 0, "held-out": 1_000_000}

_PHOTOGRAPHS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {"plaster": ("grass", "gravel"), "art": ("astronaut", "hubble_deep_field")},
    "held-out": {"plaster": ("brick",), "art": ("rocket",)},
}
"""scikit-image's, of public domain. Those that clsspec is shown with are left out."""


@dataclass
class Bank:
    """`layers`: `(S, S, 3) uint8` each; `families`: the numbers of the layers of each family."""

    layers: list[NDArray[np.uint8]]
    families: dict[str, list[int]]

    def pick(self, rng: np.random.Generator, names: tuple[str, ...]) -> int:
        """A layer of one of the families."""
        family = self.families[names[int(rng.integers(len(names)))]]
        return family[int(rng.integers(len(family)))]

    def add(self, layer: NDArray[np.uint8]) -> int:
        """The number of a further layer, of no family."""
        self.layers.append(layer)
        return len(self.layers) - 1


def texture_bank(split: str, count: int) -> Bank:
    """`count` drawn textures of each family, and photographs; none of them is in both splits."""
    bank = Bank([], {})
    for family in textures.FAMILIES:
        first = _FIRST_SEED[split]
        seeds = range(first, first + count)
        bank.families[family] = [bank.add(textures.draw(family, s, SIDE)) for s in seeds]
    for family, names in _PHOTOGRAPHS[split].items():
        for name in names:
            picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
            resized = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
            bank.families[family].append(bank.add(np.asarray(resized)[::-1].copy()))
    return bank
