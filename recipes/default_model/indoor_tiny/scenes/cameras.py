"""Where a photographer would stand in a room."""

from __future__ import annotations

import numpy as np

from indoor_tiny.scenes.plan import Box, Plan
from indoor_tiny.scenes.scene import Camera

FIELD = (np.radians(48), np.radians(66))
"""The angle of view: that of a phone's main camera along its short and along its long side."""

HEIGHT = (1.0, 1.8)
"""Metres over the floor: held by people who sit or stand."""

_TRIES = 60
_CLEARANCE = 0.25


def choose_camera(plan: Plan, rng: np.random.Generator) -> Camera | None:
    """A view from a free spot at `HEIGHT` towards the room; None where there is no spot."""
    for _ in range(_TRIES):
        # Near the walls more often than in the middle: rooms are photographed from their edges.
        x, z = rng.beta(0.6, 0.6, 2) * (plan.width - 0.3, plan.depth - 0.3) + 0.15
        y = rng.uniform(*HEIGHT)
        spot = Box(x, x, z, z, y - 0.05, y + 0.05)
        if any(spot.overlaps(each, _CLEARANCE) for each in plan.taken):
            continue
        aim = rng.uniform((0.15, 0, 0.15), (0.85, 0.55, 0.85)) * (
            plan.width,
            plan.height,
            plan.depth,
        )
        position = np.array([x, y, z])
        away = np.linalg.norm((aim - position)[[0, 2]])
        if away < 0.8 or abs(aim[1] - y) > 0.8 * away:
            continue
        return Camera(position, aim, rng.normal(0, 0.03), rng.uniform(*FIELD))
    return None
