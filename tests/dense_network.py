"""A backbone with heads in arithmetic, twice: as engines for uint8 pixels, and in PyTorch.

Its features depend on each pixel of a patch, on how much of it the picture covers, and on the whole
view, so that a window in another place, padding of another colour or a mixed-up batch shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny_bundle as tiny
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clsspec_serve.bundle import Bundle
from clsspec_serve.engines.protocol import Values
from clsspec_serve.heads import (
    AnyHead,
    Category,
    ClassificationHead,
    DepthHead,
    Protocol,
    SegmentationHead,
    Source,
)
from clsspec_serve.manifest import Manifest, Preprocessing
from clsspec_serve.predictor import Model

PATCH, WIDTH, CLASSES, UPSAMPLE = tiny.PATCH, 8, 21, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEGMENTATION = Protocol(size=(512, 512), policy="short", window=512, stride=341)
DEPTH = Protocol(size=(480, 480), policy="short", flip=True)

_random = np.random.default_rng(7)
FILTERS = {
    "patches": _random.standard_normal((WIDTH, 3, PATCH, PATCH)) / PATCH,
    "patches_0_raw": _random.standard_normal((WIDTH, 3, PATCH, PATCH)) / PATCH,
}
SEGMENT = 4 * _random.standard_normal((CLASSES, WIDTH))
DISTANCE = _random.standard_normal((UPSAMPLE * UPSAMPLE, 2 * WIDTH))
CLASSIFY = _random.standard_normal((5, WIDTH))


def features(pixels: NDArray[np.uint8], name: str) -> NDArray[Any]:
    """One view `(4, H, W)` to patches `(h, w, D)`, in NumPy."""
    coverage = pixels[3].astype(np.float64)
    mean, std = (np.array(each)[:, None, None] for each in (MEAN, STD))
    picture = (pixels[:3] / 255.0 - mean * coverage) / std
    height, width = (side // PATCH for side in picture.shape[1:])
    blocks = picture.reshape(3, height, PATCH, width, PATCH)
    local = np.tanh(np.einsum("cyixj,kcij->yxk", blocks, FILTERS[name]))
    return (local + local.mean((0, 1))).astype(np.float32)


def official_features(picture: Tensor, name: str) -> Tensor:
    """The same of a normalised, padded `(1, 3, H, W)`: `(1, D, h, w)`, in PyTorch."""
    weight = torch.from_numpy(FILTERS[name])
    local = functional.conv2d(picture, weight, stride=PATCH).tanh()
    return local + local.mean((2, 3), keepdim=True)


def official_segment(picture: Tensor) -> Tensor:
    """Logits `(1, K, h, w)`."""
    tokens = official_features(picture, "patches")
    return torch.einsum("bdhw,kd->bkhw", tokens, torch.from_numpy(SEGMENT))


def official_depth(picture: Tensor) -> Tensor:
    """Metres `(1, 1, 2h, 2w)`."""
    tokens = official_features(picture, "patches_0_raw")
    both = torch.cat([tokens, tokens.mean((2, 3), keepdim=True).expand_as(tokens)], dim=1)
    values = torch.einsum("bdhw,kd->bkhw", both, torch.from_numpy(DISTANCE))
    return functional.pixel_shuffle(values.abs() + 0.5, UPSAMPLE)


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    """`(H, W, 3)` uint8 to `(1, 3, H, W)` float64."""
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (MEAN, STD))
    return ((torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255.0 - mean) / std)[None]


class Backbone:
    """The engine; `runs` are the shapes that it was shown and what it was asked for."""

    name = "arithmetic"
    precision = "fp32"

    def __init__(self) -> None:
        self.runs: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        pixels = inputs["pixels"]
        self.runs.append((pixels.shape, tuple(outputs)))
        return {name: np.stack([self._one(view, name) for view in pixels]) for name in outputs}

    def _one(self, view: NDArray[np.uint8], name: str) -> NDArray[Any]:
        tokens = features(view, name.replace("cls", "patches"))
        return tokens.mean((0, 1)) if name.startswith("cls") else tokens


class HeadEngine:
    """The engine of one head; `given` are the names that it was given."""

    name = "arithmetic"
    precision = "fp32"

    def __init__(self, task: str) -> None:
        self.task = task
        self.given: list[tuple[str, ...]] = []

    def run(self, inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        self.given.append(tuple(inputs))
        if list(outputs) != [self.task]:
            raise ValueError(f"{self.task} was asked for {outputs}")
        compute: Callable[[Values], NDArray[Any]] = getattr(self, f"_{self.task}")
        return {self.task: compute(inputs).astype(np.float32)}

    def _segment(self, inputs: Values) -> NDArray[Any]:
        return np.stack([each @ SEGMENT.T for each in inputs["patches"]])

    def _classify(self, inputs: Values) -> NDArray[Any]:
        return np.stack([each @ CLASSIFY.T for each in inputs["cls"]])

    def _depth(self, inputs: Values) -> NDArray[Any]:
        answers = []
        for patches, cls in zip(inputs["patches_0_raw"], inputs["cls_0_raw"], strict=True):
            both = np.concatenate([patches, np.broadcast_to(cls, patches.shape)], axis=2)
            height, width = patches.shape[:2]
            fine = (both @ DISTANCE.T).reshape(height, width, UPSAMPLE, UPSAMPLE)
            answers.append(fine.transpose(0, 2, 1, 3).reshape(height * UPSAMPLE, width * UPSAMPLE))
        return np.abs(np.stack(answers)) + 0.5


class Heads:
    """What a model loads its heads by; `loaded` are the engines in the order of loading."""

    def __init__(self) -> None:
        self.loaded: list[HeadEngine] = []

    def __call__(self, task: str) -> HeadEngine:
        self.loaded.append(HeadEngine(task))
        return self.loaded[-1]


def manifest() -> Manifest:
    """With a head for every task; the backbone's own preprocessing is that of `tiny_bundle`."""
    own = tiny.tiny_manifest()
    named = {output.name: output for output in own.outputs}
    source = Source(name="tests", format="arithmetic")
    heads: tuple[AnyHead, ...] = (
        SegmentationHead(
            inputs=(named["patches"],),
            protocol=SEGMENTATION,
            source=source,
            classes=tuple(Category(name=f"{i}", colour=(i, i, i)) for i in range(CLASSES)),
        ),
        DepthHead(
            inputs=(named["patches_0_raw"], named["cls_0_raw"]),
            protocol=DEPTH,
            source=source,
            minimum=0.5,
            maximum=100,
            method="regression",
            upsample=UPSAMPLE,
        ),
        ClassificationHead(
            inputs=(named["cls"],),
            protocol=Protocol(size=(28, 28), policy="crop"),
            source=source,
            classes=tuple("abcde"),
        ),
    )
    preprocessing = Preprocessing(
        size=tiny.SIZE, policy="squash", interpolation="bilinear", mean=MEAN, std=STD
    )
    return own.model_copy(update={"heads": heads, "preprocessing": preprocessing})


def model(bundle: Path, backbone: Backbone, heads: Heads) -> Model:
    """On the position table of a bundle that was written."""
    return Model(Bundle(bundle, manifest()), backbone, heads)  # type: ignore[arg-type]  # str names
