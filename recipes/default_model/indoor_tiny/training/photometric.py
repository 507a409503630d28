"""What cameras do to a picture, at random and strongly, so that rendered frames stand for photos.

Everything that changes single pixels is one matrix and one table per channel, which Pillow applies
without leaving 8 bits.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

GREY = (0.299, 0.587, 0.114)
_DISPLAY = 2.2


def photograph(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An RGB picture as some camera would have taken, developed and stored it."""
    image = image.point(_development(rng).ravel().tolist()).convert("RGB", _saturation(rng))
    draw = rng.random(4)
    if draw[0] < 0.2:
        image = _coarse(image, float(rng.uniform(0.4, 0.9)))
    if draw[1] < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
    if draw[2] < 0.5:
        image = _noisy(image, float(rng.uniform(1, 16)), rng)
    if draw[3] < 0.4:
        image = _compressed(image, int(rng.integers(25, 90)))
    return image


def _saturation(rng: np.random.Generator) -> tuple[float, ...]:
    """A matrix of 3 rows and 4 columns; one picture in twelve loses all colour."""
    amount = 0.0 if rng.random() < 1 / 12 else float(rng.uniform(0.4, 1.6))
    mixed = amount * np.eye(3) + (1 - amount) * np.array(GREY)
    return tuple(np.concatenate([mixed, np.zeros((3, 1))], axis=1).ravel().tolist())


def _development(rng: np.random.Generator) -> NDArray[np.uint8]:
    """`(3, 256) uint8`: exposure and white balance in linear light, then gamma and contrast."""
    warmth, tint = rng.normal(0, (0.25, 0.08))
    gains = np.exp([warmth, tint, -warmth]) * 2.0 ** rng.uniform(-0.8, 0.8)
    values = (np.linspace(0, 1, 256) ** _DISPLAY * gains[:, None]).clip(0, 1)
    values = values ** (np.exp(rng.uniform(-0.3, 0.3)) / _DISPLAY)
    values = (values - 0.5) * rng.uniform(0.6, 1.3) + 0.5 + rng.uniform(-0.1, 0.1)
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def _coarse(image: Image.Image, share: float) -> Image.Image:
    size = image.size
    small = (max(1, round(size[0] * share)), max(1, round(size[1] * share)))
    return image.resize(small, Image.Resampling.BILINEAR).resize(size, Image.Resampling.BICUBIC)


def _noisy(image: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, np.float32)
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(deviation)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")
