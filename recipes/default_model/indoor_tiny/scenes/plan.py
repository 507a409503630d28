"""The floor plan while a room fills: what stands where, and what of each wall is taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

WALLS = 4
"""0 at z = 0 (looks to +z), 1 at x = W (to -x), 2 at z = D (to -z), 3 at x = 0 (to +x)."""

ANGLES = (0.0, -np.pi / 2, np.pi, np.pi / 2)
"""By wall: how a piece is turned whose back is to it."""


@dataclass(frozen=True)
class Box:
    """An area of the floor, with the heights it takes, in metres."""

    x0: float
    x1: float
    z0: float
    z1: float
    y0: float = 0.0
    y1: float = 10.0

    def overlaps(self, other: Box, margin: float = 0.0) -> bool:
        """Whether the two come closer than `margin`, in all three directions."""
        return (
            self.x0 < other.x1 + margin
            and other.x0 < self.x1 + margin
            and self.z0 < other.z1 + margin
            and other.z0 < self.z1 + margin
            and self.y0 < other.y1
            and other.y0 < self.y1
        )


@dataclass
class Plan:
    """A room of `width` (x), `depth` (z) and `height`, and the boxes that are taken."""

    width: float
    depth: float
    height: float
    taken: list[Box] = field(default_factory=list)

    def inside(self, box: Box) -> bool:
        """Whether a box lies in the room."""
        return (
            box.x0 >= 0
            and box.x1 <= self.width
            and box.z0 >= 0
            and box.z1 <= self.depth
            and box.y1 <= self.height
        )

    def free(self, box: Box, margin: float = 0.0) -> bool:
        """Whether a box lies in the room and touches nothing."""
        return self.inside(box) and not any(box.overlaps(each, margin) for each in self.taken)

    def length(self, wall: int) -> float:
        """Of a wall, in metres."""
        return self.width if wall % 2 == 0 else self.depth

    def on_wall(self, wall: int, along: float, gap: float) -> tuple[float, float]:
        """(x, z) of a point `along` a wall, seen from the left corner of its front, `gap` off."""
        return (
            (along, gap),
            (self.width - gap, along),
            (along, self.depth - gap),
            (gap, along),
        )[wall]


def footprint(
    x: float, z: float, angle: float, size: tuple[float, float, float], elevation: float = 0.0
) -> Box:
    """The box around a piece of (width, height, depth), turned by `angle` about its middle."""
    width, height, depth = size
    c, s = abs(np.cos(angle)), abs(np.sin(angle))
    half_x, half_z = (width * c + depth * s) / 2, (width * s + depth * c) / 2
    return Box(
        x - half_x, x + half_x, z - half_z, z + half_z, elevation, elevation + max(height, 1e-3)
    )
