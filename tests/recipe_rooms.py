"""A few boxes as furniture, and rooms of them, for tests without Debian's furniture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indoor_tiny.classes import ROOMS, class_id
from indoor_tiny.scenes.bank import SIDE, Bank
from indoor_tiny.scenes.catalogue import Piece
from indoor_tiny.scenes.meshes import Material, Mesh, quads
from indoor_tiny.scenes.stock import Model, Stock
from indoor_tiny.scenes.textures import FAMILIES, draw

GREY = (Material((0.5, 0.5, 0.5), 1.0, None),)


def box(size: tuple[float, float, float]) -> Mesh:
    """A box of (width, height, depth) on the origin's floor."""
    x, y, z = size[0] / 2, size[1], size[2] / 2
    corners = np.array(
        [
            [[-x, 0, z], [x, 0, z], [x, y, z], [-x, y, z]],
            [[x, 0, -z], [-x, 0, -z], [-x, y, -z], [x, y, -z]],
            [[x, 0, z], [x, 0, -z], [x, y, -z], [x, y, z]],
            [[-x, 0, -z], [-x, 0, z], [-x, y, z], [-x, y, -z]],
            [[-x, y, z], [x, y, z], [x, y, -z], [-x, y, -z]],
            [[-x, 0, -z], [x, 0, -z], [x, 0, z], [-x, 0, z]],
        ]
    )
    return Mesh(quads(corners, np.zeros((6, 4, 2))), GREY)


def model(
    label: str, place: str, size: tuple[float, float, float], elevation: float = 0.0
) -> Model:
    """A box that counts as a piece of furniture."""
    piece = Piece(
        library=Path("none.sh3f"),
        model=f"{label}.obj",
        name=label,
        creator="a test",
        label=class_id(label),
        place=place,
        rooms=frozenset(range(len(ROOMS))),
        size=size,
        elevation=elevation,
        top=size[1],
        rotation=np.eye(3),
        held_out=False,
    )
    return Model(piece, box(size), (-1,))


def small_bank() -> Bank:
    """One texture of each family."""
    bank = Bank([], {})
    for family in FAMILIES:
        bank.families[family] = [bank.add(draw(family, 0, SIDE))]
    return bank


def small_stock() -> Stock:
    """One piece for most of the places there are."""
    return Stock(
        [
            model("bed", "wall", (1.4, 0.5, 2.0)),
            model("cabinet", "wall", (1.0, 0.9, 0.5)),
            model("cabinet", "hung", (0.6, 0.7, 0.3), elevation=1.5),
            model("table", "middle", (1.2, 0.75, 0.8)),
            model("chair", "seat", (0.45, 0.9, 0.45)),
            model("lamp", "ceiling", (0.3, 0.4, 0.3)),
            model("plant", "stand", (0.3, 0.4, 0.3)),
            model("person", "floor", (0.5, 1.7, 0.4)),
            model("door", "opening", (0.9, 2.0, 0.15)),
            model("window", "opening", (1.0, 1.2, 0.15), elevation=0.9),
            model("other", "top", (0.2, 0.2, 0.2)),
        ],
        small_bank(),
    )
