"""Draws scenes in a process of its own.

OpenGL's software driver and PyTorch bring a compiler each, and one process with both has crashed.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from indoor_tiny.scenes.renderer import Renderer, View
    from indoor_tiny.scenes.scene import Camera, Scene

    Draw = Callable[[Scene, Camera], View]

_renderers: list[Renderer] = []


@contextmanager
def drawing(side: int) -> Iterator[Draw]:
    """A function that draws a scene from a camera, its only texture a half grey."""
    with multiprocessing.get_context("spawn").Pool(1, _start, (side,)) as pool:
        yield lambda scene, camera: pool.apply(_draw, (scene, camera))


def _start(side: int) -> None:
    from indoor_tiny.scenes.bank import SIDE
    from indoor_tiny.scenes.renderer import Renderer

    _renderers.append(Renderer(side, [np.full((SIDE, SIDE, 3), 128, np.uint8)], []))


def _draw(scene: Scene, camera: Camera) -> View:
    return _renderers[0].draw(scene, [camera])[0]
