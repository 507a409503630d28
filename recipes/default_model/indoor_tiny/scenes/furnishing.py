"""Rooms of some kind, with what such rooms have."""

from __future__ import annotations

import numpy as np

from indoor_tiny.classes import ROOMS, class_id
from indoor_tiny.scenes.filling import Filling
from indoor_tiny.scenes.plan import Plan
from indoor_tiny.scenes.scene import Scene
from indoor_tiny.scenes.shell import add_light, add_shell
from indoor_tiny.scenes.stock import Stock

WISHES: dict[str, dict[str, float]] = {
    "living": {"sofa": 1.6, "table": 1.3, "cabinet": 2, "chair": 2, "screen": 0.8, "other": 3},
    "bedroom": {"bed": 1.3, "cabinet": 2.3, "table": 0.5, "chair": 0.8, "sofa": 0.1, "other": 3},
    "kitchen": {"cabinet": 4, "appliance": 3, "table": 1, "chair": 1, "other": 3},
    "bathroom": {"bath": 4, "cabinet": 0.5, "appliance": 0.4, "other": 4},
    "office": {"table": 1.8, "chair": 1.8, "cabinet": 2, "screen": 1.2, "other": 2},
    "corridor": {"cabinet": 0.8, "chair": 0.6, "other": 2},
}
"""How many of a class a kind of room has on average."""

EVERYWHERE = {"person": 0.45, "plant": 0.9, "lamp": 1.3}
"""The same for all rooms."""

DOORS, WINDOWS, PICTURES, RUGS, ON_TOP = 0.9, 1.1, 1.6, 0.5, 2.2
"""The same, the last for each piece with a top."""

CLUTTER = (0.5, 2.4)
"""What the numbers of a room are multiplied by."""

_LARGE = ("bed", "sofa", "bath", "appliance", "cabinet", "screen", "table")
_SMALL = ("chair", "person", "plant", "lamp", "other")
_PLACES = ("wall", "middle", "seat", "floor", "stand", "hung", "ceiling")


def furnish(stock: Stock, rng: np.random.Generator) -> tuple[Scene, Plan]:
    """A furnished room, and the plan with what is taken of it."""
    scene, plan = _empty_room(stock, rng)
    filling = Filling(stock, scene, plan, rng)
    clutter = rng.uniform(*CLUTTER)
    for name, mean in (("door", DOORS), ("window", WINDOWS)):
        for _ in range(rng.poisson(mean)):
            filling.put(class_id(name), ("opening",))
    wishes = WISHES[ROOMS[scene.room]] | EVERYWHERE
    counts = {name: int(rng.poisson(mean * clutter)) for name, mean in wishes.items()}
    for name in (*_LARGE, *_SMALL):
        for _ in range(counts.get(name, 0)):
            filling.put(class_id(name), _PLACES)
    filling.cover(ON_TOP * clutter)
    for _ in range(rng.poisson(PICTURES)):
        filling.picture()
    for _ in range(rng.poisson(RUGS)):
        filling.rug()
    return scene, plan


def _empty_room(stock: Stock, rng: np.random.Generator) -> tuple[Scene, Plan]:
    kind = int(rng.integers(len(ROOMS)))
    small = ROOMS[kind] in ("bathroom", "corridor")
    width, depth = rng.uniform(*((1.6, 3.8) if small else (2.5, 6.8)), 2)
    if ROOMS[kind] == "corridor":
        depth = rng.uniform(3, 8)
    height = rng.uniform(2.3, 3.2)
    scene = Scene((width, height, depth), kind)
    add_shell(scene, stock.bank, rng)
    add_light(scene, rng)
    return scene, Plan(width, depth, height)
