"""Furniture, textures and renderer of one split, ready to make frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indoor_tiny.classes import class_id
from indoor_tiny.scenes.bank import SIDE, texture_bank
from indoor_tiny.scenes.cameras import choose_camera
from indoor_tiny.scenes.catalogue import read_furniture
from indoor_tiny.scenes.developing import SAMPLES, develop
from indoor_tiny.scenes.furnishing import furnish
from indoor_tiny.scenes.meshes import load_mesh
from indoor_tiny.scenes.renderer import Renderer, View
from indoor_tiny.scenes.stock import Model, Stock

VIEWS = 3
"""Frames of a room."""

SPLITS = ("train", "held-out")

_NEAREST = 0.3
_MOST_WALL = 0.75


@dataclass(frozen=True)
class Frame:
    """`image (S, S, 3)`, `classes (S, S)` uint8; `depth (S, S) uint16`, mm; the room's kind."""

    image: NDArray[np.uint8]
    classes: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    room: int


class Stage:
    """What rooms of a split are made of. `unpacked`: where the libraries are unzipped.

    `side`: of a frame, in pixels. `textures`: drawn of each family.
    """

    def __init__(
        self, split: str, furniture: Path, unpacked: Path, side: int, textures: int
    ) -> None:
        pieces = read_furniture(furniture)
        bank = texture_bank(split, textures)
        models = []
        for piece in pieces:
            if piece.held_out != (split == "held-out"):
                continue
            mesh = load_mesh(piece, unpacked, SIDE)
            if mesh is not None:
                own = (material.texture for material in mesh.materials)
                layers = tuple(-1 if each is None else bank.add(each) for each in own)
                models.append(Model(piece, mesh, layers))
        self._stock = Stock(models, bank)
        self._renderer = Renderer(side * SAMPLES, bank.layers, [each.mesh for each in models])

    def frames(self, seed: tuple[int, ...], count: int) -> Iterator[Frame]:
        """`count` frames of rooms drawn from a seed; views of nearly nothing are left out."""
        made, room = 0, 0
        while made < count:
            rng = np.random.default_rng([*seed, room])
            room += 1
            scene, plan = furnish(self._stock, rng)
            found = (choose_camera(plan, rng) for _ in range(VIEWS))
            cameras = [camera for camera in found if camera is not None]
            for view in self._renderer.draw(scene, cameras):
                if made < count and _shows_something(view):
                    made += 1
                    yield Frame(*develop(view, rng), scene.room)


def _shows_something(view: View) -> bool:
    shares = (
        np.bincount(view.classes.ravel(), minlength=class_id("ceiling") + 1) / view.classes.size
    )
    bare = shares[[class_id("wall"), class_id("floor"), class_id("ceiling")]]
    low = float(np.quantile(view.distance, 0.05))
    return bool(bare.max() < _MOST_WALL and low > _NEAREST)
