"""The room itself: floor, walls, ceiling, skirting, and the light in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indoor_tiny.classes import class_id
from indoor_tiny.scenes.bank import Bank
from indoor_tiny.scenes.meshes import Material, Mesh, quads
from indoor_tiny.scenes.scene import Item, Light, Paint, Scene, Vector
from indoor_tiny.scenes.textures import CEILINGS, FLOORS, WALLS

_NONE = (Material((1, 1, 1), 1, None),)


def panel(width: float, height: float) -> Mesh:
    """An upright rectangle around the origin's height, its front to +z, uv over all of it."""
    x, y = width / 2, height
    corners = np.array([[[-x, 0, 0], [x, 0, 0], [x, y, 0], [-x, y, 0]]], np.float64)
    uv = np.array([[[0, 0], [1, 0], [1, 1], [0, 1]]], np.float64)
    return Mesh(quads(corners, uv), _NONE)


def rug(width: float, depth: float) -> Mesh:
    """A rectangle that lies on the floor, uv over all of it."""
    x, z = width / 2, depth / 2
    corners = np.array([[[-x, 0, z], [x, 0, z], [x, 0, -z], [-x, 0, -z]]], np.float64)
    uv = np.array([[[0, 0], [1, 0], [1, 1], [0, 1]]], np.float64)
    return Mesh(quads(corners, uv), _NONE)


def add_shell(scene: Scene, bank: Bank, rng: np.random.Generator) -> None:
    """Put floor, ceiling, four walls and a skirting board into a scene."""
    width, height, depth = scene.size

    def surface(corners: Sequence[Sequence[float] | Vector], label: str, paint: Paint) -> Item:
        points = np.array([corners], np.float64)
        mesh = Mesh(quads(points, np.zeros((1, 4, 2))), _NONE)
        return Item(mesh, (paint,), class_id(label))

    def look(families: tuple[str, ...], low: float, high: float) -> Paint:
        tint = rng.uniform(0.75, 1.1, 3).clip(0, 1)
        return Paint(
            (tint[0], tint[1], tint[2]),
            bank.pick(rng, families),
            repeat=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
            gloss=float(rng.choice([0, 0, 0.2])),
        )

    w, h, d = width, height, depth
    floor = [[0.0, 0.0, d], [w, 0.0, d], [w, 0.0, 0.0], [0.0, 0.0, 0.0]]
    ceiling = [[0.0, h, 0.0], [w, h, 0.0], [w, h, d], [0.0, h, d]]
    scene.items.append(surface(floor, "floor", look(FLOORS, 0.3, 1.5)))
    white = Paint((float(rng.uniform(0.8, 1)),) * 3)
    plain = rng.uniform() < 0.6
    scene.items.append(surface(ceiling, "ceiling", white if plain else look(CEILINGS, 0.3, 1.5)))
    common = look(WALLS, 0.3, 1.5)
    board = rng.uniform(0.05, 0.14) if rng.uniform() < 0.6 else 0.0
    trim = Paint(tuple(rng.uniform(0.3, 1, 3)) if rng.uniform() < 0.3 else (0.9, 0.9, 0.88))
    ends = ([0, 0, 0], [w, 0, 0], [w, 0, d], [0, 0, d])
    top = np.array([0, h, 0])
    for index in range(4):
        a, b = np.array(ends[index], float), np.array(ends[(index + 1) % 4], float)
        wall = [a, b, b + top, a + top]
        own = look(WALLS, 0.3, 1.5) if rng.uniform() < 0.15 else common
        scene.items.append(surface(wall, "wall", own))
        if board:
            along = (b - a) / np.linalg.norm(b - a)
            off = np.cross((0, 1, 0), along) * -0.012
            edge = np.array([0, board, 0])
            strip = [a + off, b + off, b + off + edge, a + off + edge]
            scene.items.append(surface(strip, "wall", trim))


def add_light(scene: Scene, rng: np.random.Generator) -> None:
    """One to four point lights, the first below the ceiling, and light from everywhere."""
    width, height, depth = scene.size
    warmth = rng.uniform(-0.25, 0.35)
    colour = np.array([1 + warmth, 1.0, 1 - warmth])
    count = int(rng.integers(1, 5))
    for index in range(count):
        place = rng.uniform((0.25, 0.8, 0.25), (0.75, 0.97, 0.75)) * (width, height, depth)
        if index:
            place = rng.uniform((0.05, 0.3, 0.05), (0.95, 0.95, 0.95)) * (width, height, depth)
        strength = rng.uniform(0.6, 1) if index == 0 else rng.uniform(0.05, 0.6)
        power = strength * max(width, depth) ** 1.3 * colour * rng.normal(1, 0.05, 3)
        scene.lights.append(Light(tuple(place), tuple(power)))
    level = rng.uniform(0.1, 0.6)
    scene.ambient = (
        level * rng.normal(1, 0.06, 3) * colour,
        level * rng.uniform(0.3, 0.9) * rng.normal(1, 0.06, 3) * colour,
    )
