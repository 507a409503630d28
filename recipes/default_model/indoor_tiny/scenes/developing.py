"""From light to a photograph: contact shadows, exposure, tone curve, fewer pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from indoor_tiny.scenes.renderer import View

SAMPLES = 2
"""Rendered pixels per pixel of a frame, along each side."""

_DARKENING = 0.6


def develop(
    view: View, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
    """`(S, S, 3) uint8` sRGB, `(S, S) uint8` classes, `(S, S) uint16` millimetres of a view.

    The picture averages all samples; class and depth are those of one of them.
    """
    side = len(view.classes) // SAMPLES
    cells = view.radiance.reshape(side, SAMPLES, side, SAMPLES, 3)
    distance = view.distance[::SAMPLES, ::SAMPLES]
    light = np.minimum(cells, 30).mean(axis=(1, 3)) * _contact(distance)[..., None]
    middle = np.exp(np.log(light.mean(axis=-1) + 1e-3).mean())
    light *= rng.uniform(0.16, 0.42) / middle
    shoulder = light * (1 + light / 9) / (1 + light)  # Reinhard's curve, white at 3
    picture = np.where(
        shoulder < 0.0031308, 12.92 * shoulder, 1.055 * shoulder.clip(1e-6) ** (1 / 2.4) - 0.055
    )
    return (
        (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8),
        view.classes[::SAMPLES, ::SAMPLES].copy(),
        (distance * 1000 + 0.5).clip(0, 65535).astype(np.uint16),
    )


def _contact(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(S, S)`: darker where the surroundings are nearer, as corners and gaps are.

    The unsharp mask of the depth buffer (Luft, Colditz, Deussen: Image Enhancement by Unsharp
    Masking the Depth Buffer, 2006).
    """
    depth = np.log(np.maximum(distance, 0.05))
    near = ndimage.uniform_filter(depth, max(len(depth) // 16, 3)) - depth
    found: NDArray[np.float32] = np.exp(_DARKENING * np.minimum(near, 0) * 4).clip(0.35, 1)
    return found
