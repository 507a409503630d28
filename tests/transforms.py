"""Photographs of several shapes, and timm's own evaluation of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import transforms_imagenet_eval

from clsspec_serve.manifest import Preprocessing

STATISTICS: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PHOTOS = {
    "astronaut": skimage.data.astronaut(),
    "coffee": skimage.data.coffee(),
    "chelsea": skimage.data.chelsea(),
    "rocket": skimage.data.rocket(),
    "tall": skimage.data.coffee().transpose(1, 0, 2)[:501, :333],
    "small": skimage.data.chelsea()[100:161, 90:180],
    "strip": skimage.data.rocket()[:7, :],
    "pixel": skimage.data.coffee()[200:201, 200:201],
}
PIXELS = PHOTOS["chelsea"]  # (300, 451)


def preprocessing(**changes: Any) -> Preprocessing:
    given = {"size": (224, 224), "policy": "squash", "interpolation": "bicubic"}
    return Preprocessing(**STATISTICS | given | changes)


def timm_eval(
    pixels: NDArray[np.uint8], size: tuple[int, int], crop_pct: float, mode: str, interpolation: str
) -> NDArray[np.uint8]:
    evaluate = transforms_imagenet_eval(
        img_size=size,
        crop_pct=crop_pct,
        crop_mode=mode,
        interpolation=interpolation,
        normalize=False,
    )
    tensor = evaluate(Image.fromarray(pixels))
    assert isinstance(tensor, torch.Tensor)
    return tensor.numpy()
