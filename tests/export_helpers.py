"""Tiny models under timm's names, network inputs, and the difference that the tests bound."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.models import register_model
from torch import Tensor, nn

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.reference import Reference
from clsspec_serve.schema import Output

TOLERANCE = 1e-5
"""Of the largest value; what two orders of fp32 arithmetic differ by is a tenth of it."""

WIDTH, DEPTH, HEADS = 32, 3, 2
TINY: dict[str, Any] = {
    "embed_dim": WIDTH,
    "depth": DEPTH,
    "num_heads": HEADS,
    "num_classes": 0,
}

TEST_MODELS = {
    "vit_test_patch14_dinov2": ("vit_small_patch14_dinov2", {"img_size": 56}),
    "vit_test_patch14_reg4_dinov2": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "vit_testgiant_patch14_dinov2": ("vit_giant_patch14_dinov2", {"img_size": 56}),
    "deit3_test_patch16_224": ("deit3_small_patch16_224", {"img_size": 64}),
    "vit_test_patch16_dinov3_qkvb": ("vit_small_patch16_dinov3_qkvb", {}),
    "vit_test_plus_patch16_dinov3_qkvb": (
        "vit_small_plus_patch16_dinov3_qkvb",
        {"swiglu_align_to": 8},
    ),
}
"""Name of a tiny architecture to timm's base and what else than the size it changes."""


def _register(name: str, base: str, arguments: dict[str, Any]) -> None:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return timm.create_model(base, pretrained=pretrained, **(TINY | arguments | kwargs))

    build.__name__ = build.__qualname__ = name
    setattr(sys.modules[__name__], name, register_model(build))


for _name, (_base, _arguments) in TEST_MODELS.items():
    _register(_name, _base, _arguments)


def network_input(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """`(2, 4, H, W)` uint8: random RGB, coverage 1 everywhere."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 4, height, width), np.uint8)
    pixels[:, 3] = 1
    return pixels


def normalised(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> Tensor:
    """`(2, 3, H, W)`: what another implementation of the model takes."""
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (checkpoint.preprocessing.mean, checkpoint.preprocessing.std)
    )
    return (torch.from_numpy(pixels[:, :3]).float() / 255 - mean) / std


def last_outputs(model: nn.Module) -> tuple[Output, Output]:
    last = len(model.blocks) - 1
    return (
        Output(name="cls", kind="cls", layer=last, norm=True),
        Output(name="patches", kind="patches", layer=last, norm=True),
    )


def features(checkpoint: Checkpoint, pixels: NDArray[np.uint8]) -> Tensor:
    """`(2, 1 + patches, D)`: [CLS] and patches of the last layer, normed, without registers."""
    sample = Reference(checkpoint, last_outputs(checkpoint.model)).sample(pixels)
    cls, patches = (torch.from_numpy(sample.outputs[name]) for name in ("cls", "patches"))
    return torch.cat([cls[:, None], patches.flatten(1, 2)], dim=1)


def without_registers(tokens: Tensor, registers: int) -> Tensor:
    """`(B, 1 + registers + patches, D)` to `(B, 1 + patches, D)`."""
    return torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], dim=1)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def random_pixels(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """`(B, 4, H, W) uint8` with padding at the bottom and on the right where there is room."""
    pixels = np.random.default_rng(seed).integers(0, 256, (batch, 4, height, width), np.uint8)
    covered = np.zeros((height, width), bool)
    covered[: height - 5, : width - 3] = True
    pixels[:, 3] = covered
    pixels[:, :3] *= covered
    return pixels
