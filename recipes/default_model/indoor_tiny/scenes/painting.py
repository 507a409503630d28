"""Which colours and textures the materials of a piece get in one scene."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from indoor_tiny.classes import class_id
from indoor_tiny.scenes.bank import Bank
from indoor_tiny.scenes.meshes import Material, Mesh
from indoor_tiny.scenes.scene import Paint
from indoor_tiny.scenes.textures import CLOTHS

CLEAR = 0.9
"""Opacity below which a material is glass."""

_OWN = {class_id(name) for name in ("person", "plant")}
"""Classes whose own look is kept: skin and leaves are what they are told by."""


def paint(
    mesh: Mesh, layers: Iterable[int], label: int, bank: Bank, rng: np.random.Generator
) -> tuple[Paint, ...]:
    """A paint per material: the model's own, tinted, or another texture instead of it.

    `layers`: where the bank has the materials' own textures, -1 for those without one.
    """
    view = bank.pick(rng, ("view",))
    tint = rng.normal(1, 0.12, 3).clip(0.6, 1.4) * rng.uniform(0.7, 1.2)
    faithful = rng.uniform() < 0.5 or label in _OWN
    return tuple(
        _paint(material, layer, label, view, tint, bank, rng, faithful)
        for material, layer in zip(mesh.materials, layers, strict=True)
    )


def _paint(
    material: Material,
    layer: int,
    label: int,
    view: int,
    tint: np.ndarray,
    bank: Bank,
    rng: np.random.Generator,
    faithful: bool,
) -> Paint:
    if material.opacity < CLEAR:
        if label == class_id("window"):
            return Paint((1, 1, 1), view, repeat=0.45, glow=rng.uniform(0.6, 1.6))
        if label in (class_id("door"), class_id("cabinet"), class_id("screen")):
            return Paint((0.3, 0.35, 0.38), gloss=0.8)
        return Paint(material.colour, hidden=material.opacity < 0.4, gloss=0.6)
    if label == class_id("screen") and layer >= 0:
        return Paint((1, 1, 1), bank.pick(rng, ("display",)), glow=rng.uniform(0.3, 1.2))
    gloss = float(rng.choice([0, 0, 0.1, 0.5]))
    if not faithful and rng.uniform() < 0.5:
        repeat = float(np.exp(rng.uniform(np.log(0.5), np.log(4))))
        return Paint((1, 1, 1), bank.pick(rng, CLOTHS), repeat, gloss=gloss)
    base = np.ones(3) if layer >= 0 else np.array(material.colour)
    if not faithful and layer < 0:
        base = rng.uniform(0.05, 1, 3) ** rng.uniform(0.5, 1.5)
    red, green, blue = (base * tint).clip(0, 1)
    glow = 0.0
    if label == class_id("lamp") and min(material.colour) > 0.7 and rng.uniform() < 0.5:
        glow = rng.uniform(0.5, 2)
    return Paint((red, green, blue), layer, gloss=gloss, glow=glow)
