"""From photographs to the answers of a bundle's heads, beside timm's own forward pass."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import skimage.data
import torch
from exported_heads import Made
from long_cases import mostly_long
from numpy.typing import NDArray
from PIL import Image
from standins.backbones import DINOV2, DINOV3, REG4
from torch import Tensor
from torch.nn import functional

from clsspec_serve.bundle import open_bundle
from clsspec_serve.choices import EngineName, HeadTask
from clsspec_serve.loading import start

PHOTO: NDArray[np.uint8] = np.ascontiguousarray(skimage.data.chelsea()[:200, :260])
TOLERANCE = 2e-5
"""Of the largest value, twelve blocks included; the worst seen is a quarter of it."""


def views_of(task: HeadTask, made: Made) -> list[Tensor]:
    """`(1, 3, H, W)`: what the official evaluation shows of the photograph, padded by it."""
    own = {"segment": 640, "depth": 352} if made.base == DINOV2 else {"segment": 512, "depth": 480}
    short = (own | {"classify": 256})[task]
    height, width = PHOTO.shape[:2]
    resized = (short, int(width * short / height + 0.5))
    if task == "classify":
        resized = (256, int(width * 256 / height))
    filter = Image.Resampling.BICUBIC if task == "classify" else Image.Resampling.BILINEAR
    picture = np.asarray(Image.fromarray(PHOTO).resize(resized[::-1], filter))
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    if task == "classify":
        top, left = (round((side - 224) / 2) for side in resized)
        return [pixels[:, :, top : top + 224, left : left + 224]]
    if task == "depth":
        return [_padded(pixels, made.patch), _padded(pixels.flip(3), made.patch)]
    first = pixels[:, :, :, :short]
    mirrored_too = made.base == DINOV2  # four layers: DINOv2's `ms`, averaged over the mirror image
    last = (pixels.flip(3) if mirrored_too else pixels)[:, :, :, -short:]
    return [_padded(first, made.patch), _padded(last, made.patch)]


def _padded(pixels: Tensor, patch: int) -> Tensor:
    """Zeros after the normalisation, in the middle, the odd one right or below."""
    pads = []
    for side in reversed(pixels.shape[2:]):
        missing = -side % patch
        pads += [missing // 2, missing - missing // 2]
    return functional.pad(pixels, pads)


@pytest.mark.parametrize("engine", mostly_long(["onnxruntime", "openvino"], ["onnxruntime"]))
@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
@pytest.mark.parametrize("base", mostly_long([DINOV2, DINOV3, REG4], [DINOV2]))
def test_a_photograph_gets_the_answer_of_the_official_code(
    base: str, task: HeadTask, engine: EngineName, made: Callable[[str], Made]
) -> None:
    bundle = made(base)
    model = start(open_bundle(bundle.path), engine=engine)
    request = model.request(tasks=[task], flip=None)
    prepared = model.prepare(PHOTO, request)
    shown = list(prepared.views())
    views = views_of(task, bundle)
    for pixels, view in zip((shown[0], shown[-1]), (views[0], views[-1]), strict=True):
        assert pixels.shape[1:] == view.shape[2:]
        if task != "classify" and bundle.patch == 14:
            assert not pixels[3].all()
        found = model.infer(pixels[None], request.needed, [task])[task]
        with torch.inference_mode():
            expected = bundle.official(task, view).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() / np.abs(expected).max() < TOLERANCE
        if task != "depth":
            agreement = (found.argmax(-1) == expected.argmax(-1)).mean()
            assert agreement > 0.999


@pytest.mark.parametrize("base", mostly_long([DINOV2, DINOV3], [DINOV2]))
def test_several_pictures_at_once_get_what_each_gets_alone(
    base: str, made: Callable[[str], Made]
) -> None:
    bundle = made(base)
    model = start(open_bundle(bundle.path), engine="onnxruntime")
    patch = bundle.patch
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5 * patch, 3 * patch), np.uint8)
    pixels[:, 3] = 1
    tasks: list[HeadTask] = ["segment", "depth", "classify"]
    needed = [output.name for output in model.manifest.outputs]
    together = model.infer(pixels, needed, tasks)
    for task in tasks:
        alone = [model.infer(pixels[n : n + 1], needed, [task])[task][0] for n in range(3)]
        np.testing.assert_allclose(together[task], np.stack(alone), rtol=1e-4, atol=1e-4)
        assert np.abs(alone[0] - alone[1]).max() > 0
