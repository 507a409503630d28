"""What a renderer is given: things with places, lights and a camera. Metres, y up, right-handed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indoor_tiny.scenes.meshes import Mesh

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Paint:
    """How one material is drawn.

    `colour`: sRGB that the texture is multiplied by. `layer`: of the texture array, -1 for none.
    `repeat`: texture repeats per metre, laid over the thing by its own coordinates; 0 takes the
    vertices' uv. `glow`: how much light it gives off itself. `gloss`: of the highlight. `hidden`:
    not drawn, as thin glass.
    """

    colour: tuple[float, float, float]
    layer: int = -1
    repeat: float = 0.0
    glow: float = 0.0
    gloss: float = 0.0
    hidden: bool = False


@dataclass(frozen=True)
class Item:
    """A mesh at a place, turned by `angle` (radians, about y, from +z towards +x)."""

    mesh: Mesh
    paints: tuple[Paint, ...]
    label: int
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    angle: float = 0.0

    def matrix(self) -> NDArray[np.float32]:
        """`(4, 4)`: the mesh's coordinates to the scene's."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        turned = np.array([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]], np.float32)
        turned[:3, 3] = self.position
        return turned


@dataclass(frozen=True)
class Light:
    """A point light. `colour`: linear RGB at a metre's distance."""

    position: tuple[float, float, float]
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. `field`: vertical angle of view in radians, of a square picture."""

    position: Vector
    target: Vector
    roll: float
    field: float

    def rotation(self) -> Vector:
        """`(3, 3)`: rows are the camera's right, up and backward axes."""
        backward = self.position - self.target
        backward = backward / np.linalg.norm(backward)
        right = np.cross((0.0, 1.0, 0.0), backward)
        right /= np.linalg.norm(right)
        up = np.cross(backward, right)
        c, s = np.cos(self.roll), np.sin(self.roll)
        return np.stack([c * right + s * up, c * up - s * right, backward])


@dataclass
class Scene:
    """A furnished room. `ambient`: linear RGB from above and from below. `room`: id of `ROOMS`."""

    size: tuple[float, float, float]
    room: int
    items: list[Item] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    ambient: tuple[Vector, Vector] = field(
        default_factory=lambda: (np.full(3, 0.3), np.full(3, 0.2))
    )
