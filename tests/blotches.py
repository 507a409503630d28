"""Pictures of which no two parts look alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Blotches with edges, and noise: no two windows look alike."""
    rng = np.random.default_rng([height, width, seed])
    coarse = rng.integers(0, 256, (-(-height // 40), -(-width // 40), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = rng.integers(-20, 21, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)
