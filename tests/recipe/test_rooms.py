"""Rooms: where furniture stands, and where photographers do."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from recipe_rooms import small_stock

from indoor_tiny.classes import CLASSES, ROOMS, class_id
from indoor_tiny.scenes.cameras import FIELD, choose_camera
from indoor_tiny.scenes.furnishing import EVERYWHERE, WISHES, furnish
from indoor_tiny.scenes.plan import ANGLES, WALLS, Box, Plan, footprint
from indoor_tiny.scenes.scene import Item, Scene
from indoor_tiny.scenes.textures import FAMILIES, draw

STOCK = small_stock()
SLACK = 0.12
"""Metres: windows sit in their walls, and things that were put down askew reach over the edge."""


def room(seed: int) -> tuple[Scene, Plan]:
    return furnish(STOCK, np.random.default_rng(seed))


def corners(item: Item) -> np.ndarray:
    points = item.mesh.vertices["position"]
    return np.c_[points, np.ones(len(points))] @ item.matrix().T


@pytest.mark.parametrize("seed", range(12))
def test_furniture_stays_in_its_room(seed: int) -> None:
    scene, _ = room(seed)
    for item in scene.items:
        assert (corners(item)[:, :3] > -SLACK).all()
        assert (corners(item)[:, :3] < np.array(scene.size) + SLACK).all()


@pytest.mark.parametrize("seed", range(12))
def test_what_stands_on_the_floor_does_not_stand_in_something_else(seed: int) -> None:
    scene, _ = room(seed)
    solid = tuple(map(class_id, ("bed", "cabinet", "person")))
    boxes = [
        footprint(
            item.position[0],
            item.position[2],
            item.angle,
            tuple(np.ptp(item.mesh.vertices["position"], axis=0)),  # type: ignore[arg-type]  # three
            item.position[1],
        )
        for item in scene.items
        if item.label in solid
    ]
    assert not any(one.overlaps(other, -0.1) for one, other in combinations(boxes, 2))


@pytest.mark.parametrize("wall", range(WALLS))
def test_a_piece_at_a_wall_turns_its_back_to_it(wall: int) -> None:
    plan = Plan(4.0, 3.0, 2.5)
    x, z = plan.on_wall(wall, 1.0, 0.0)
    front = np.array([np.sin(ANGLES[wall]), np.cos(ANGLES[wall])])
    inside = np.array([x, z]) + 0.5 * front
    assert plan.free(Box(inside[0], inside[0], inside[1], inside[1], 0, 1))
    behind = np.array([x, z]) - 0.1 * front
    assert not plan.inside(Box(behind[0], behind[0], behind[1], behind[1], 0, 1))


def test_a_footprint_turns_with_its_piece() -> None:
    box = footprint(1, 1, np.pi / 2, (2.0, 1.0, 0.5))
    assert np.allclose((box.x1 - box.x0, box.z1 - box.z0), (0.5, 2.0))


@pytest.mark.parametrize("seed", range(20))
def test_a_photographer_stands_in_the_room_and_not_in_the_furniture(seed: int) -> None:
    _, plan = room(seed)
    camera = choose_camera(plan, np.random.default_rng(seed))
    if camera is None:
        return
    x, y, z = camera.position
    assert plan.free(Box(x, x, z, z, y, y), margin=0.1)
    assert FIELD[0] <= camera.field <= FIELD[1]
    rotation = camera.rotation()
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.isclose(np.linalg.det(rotation), 1)


def test_rooms_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    one, again, other = room(3)[0], room(3)[0], room(4)[0]
    assert [item.position for item in one.items] == [item.position for item in again.items]
    assert one.size != other.size


@pytest.mark.parametrize("family", FAMILIES)
def test_a_texture_is_a_function_of_its_seed(family: str) -> None:
    assert (draw(family, 1, 64) == draw(family, 1, 64)).all()
    assert any((draw(family, 1, 64) != draw(family, seed, 64)).any() for seed in (2, 3, 4))


def test_every_kind_of_room_wishes_for_classes_that_there_are() -> None:
    assert list(WISHES) == list(ROOMS)
    assert set().union(EVERYWHERE, *WISHES.values()) <= set(CLASSES)
