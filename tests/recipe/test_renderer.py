"""The renderer: distances, classes, orientation and shadows of scenes that can be worked out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import pytest
from drawing import drawing
from recipe_rooms import box

from indoor_tiny.classes import class_id
from indoor_tiny.scenes.developing import SAMPLES, develop
from indoor_tiny.scenes.renderer import View
from indoor_tiny.scenes.scene import Camera, Item, Light, Paint, Scene
from indoor_tiny.scenes.shell import panel

WHITE = (Paint((1, 1, 1)),)
PIXELS = 64


class Look(Protocol):
    """A view from 1 m over the origin towards -z."""

    def __call__(
        self, *items: Item, lights: list[Light] | None = None, field: float = 90
    ) -> View: ...


@pytest.fixture(scope="module")
def look() -> Iterator[Look]:
    with drawing(PIXELS) as draw:

        def see(*items: Item, lights: list[Light] | None = None, field: float = 90) -> View:
            scene = Scene((4, 3, 4), 0, list(items), lights or [Light((0, 2, 0), (1, 1, 1))])
            eye = np.array([0, 1.0, 0])
            ahead = np.array([0, 1.0, -1])
            return draw(scene, Camera(eye, ahead, 0.0, float(np.radians(field))))

        yield see


def wall(z: float) -> Item:
    return Item(panel(40, 40), WHITE, class_id("wall"), (0, -20, z))


def test_the_depth_of_a_plane_is_that_along_the_axis_everywhere(look: Look) -> None:
    view = look(wall(-3))
    assert np.abs(view.distance - 3).max() < 1e-4
    assert (view.classes == class_id("wall")).all()


def test_nearer_things_hide_farther_ones(look: Look) -> None:
    chair = Item(box((1, 1, 0.5)), WHITE, class_id("chair"), (0, 0.5, -2))
    view = look(wall(-3), chair)
    assert view.classes[PIXELS // 2, PIXELS // 2] == class_id("chair")
    assert np.isclose(view.distance[PIXELS // 2, PIXELS // 2], 1.75, atol=1e-4)
    assert view.classes[0, 0] == class_id("wall")


def test_what_is_above_is_in_the_first_rows_and_what_is_right_in_the_last_columns(
    look: Look,
) -> None:
    lamp = Item(box((0.4, 0.4, 0.4)), WHITE, class_id("lamp"), (0.8, 1.8, -2))
    rows, columns = np.nonzero(look(wall(-3), lamp).classes == class_id("lamp"))
    assert rows.mean() < PIXELS / 2 < columns.mean()


def test_the_size_of_a_thing_follows_the_field_of_view(look: Look) -> None:
    thing = Item(panel(1, 1), WHITE, class_id("table"), (0, 0.5, -2))
    for field in (60, 90):
        seen = (look(wall(-3), thing, field=field).classes == class_id("table")).mean()
        assert np.isclose(seen, (0.5 / (2 * np.tan(np.radians(field / 2)))) ** 2, rtol=0.1)


def test_an_item_turns_about_the_upright_axis(look: Look) -> None:
    front = Item(panel(1, 1), WHITE, class_id("door"), (0, 0.5, -2), np.pi / 2)
    assert (look(wall(-3), front).classes != class_id("door")).all()  # seen from its edge


def test_a_surface_without_a_normal_is_lit_all_the_same(look: Look) -> None:
    mesh = panel(40, 40)
    mesh.vertices["normal"] = 0
    view = look(Item(mesh, WHITE, class_id("wall"), (0, -20, -3)))
    assert np.isfinite(view.radiance).all()
    assert view.radiance.min() > 0


def test_hidden_paint_is_not_drawn(look: Look) -> None:
    glass = Item(panel(1, 1), (Paint((1, 1, 1), hidden=True),), class_id("window"), (0, 0.5, -2))
    assert (look(wall(-3), glass).classes == class_id("wall")).all()


def test_a_table_shadows_the_floor_below_a_lamp(look: Look) -> None:
    lights = [Light((0, 2.8, -2), (3, 3, 3))]
    floor = Item(box((10, 0.01, 10)), WHITE, class_id("floor"))
    plate = Item(box((1.0, 0.05, 0.6)), WHITE, class_id("table"), (0, 0.5, -2))
    lit, shadowed = look(floor, lights=lights), look(floor, plate, lights=lights)
    below = (shadowed.classes == class_id("floor")) & (lit.classes == class_id("floor"))
    darker = shadowed.radiance[below].mean(axis=-1) < 0.7 * lit.radiance[below].mean(axis=-1)
    assert 0.01 < darker.mean() < 0.5


def test_a_texture_colours_what_it_is_laid_over(look: Look) -> None:
    plain, grey = (
        look(Item(panel(9, 9), (paint,), class_id("wall"), (0, -4, -3)))
        for paint in (Paint((1, 1, 1)), Paint((1, 1, 1), 0, repeat=1.0))
    )
    expected = plain.radiance * (128 / 255) ** 2.2
    assert np.abs(grey.radiance - expected).max() < 0.02 * expected.max()


def test_a_developed_picture_keeps_depth_and_classes_of_a_sample(look: Look) -> None:
    view = look(wall(-3))
    image, classes, depth = develop(view, np.random.default_rng(0))
    side = PIXELS // SAMPLES
    assert image.shape == (side, side, 3)
    assert (classes == class_id("wall")).all()
    assert (depth == 3000).all()


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_exposure_does_not_depend_on_how_strong_the_light_is(strength: float, look: Look) -> None:
    view = look(wall(-3), lights=[Light((0, 1, 0), (strength,) * 3)])
    view = View(view.radiance * strength, view.distance, view.classes)
    image, _, _ = develop(view, np.random.default_rng(0))
    assert 50 < image.mean() < 220
