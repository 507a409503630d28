"""Labelled pictures whose answer is in their colours: what a linear head must be able to learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.choices import HeadTask
from clsspec_serve.layers import Layer
from clsspec_serve.predictor import Model

if TYPE_CHECKING:  # torch takes seconds to import
    from clsspec_export.fit.fitting import Fitted

COLOURS = np.asarray([[210, 40, 40], [40, 190, 60], [50, 60, 220]])
"""Of three classes."""


def write_segmentation(
    root: Path, count: int, *, size: tuple[int, int], block: int, seed: int = 0
) -> None:
    """Blocks of three colours with noise, in `images` and `labels`."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        ids = _blocks(generator.integers(0, len(COLOURS), _counts(size, block)), block, size)
        save(root / "images" / f"{index:02}.png", _noisy(COLOURS[ids], generator))
        save(root / "labels" / f"{index:02}.png", ids.astype(np.uint8))


def write_depth(
    root: Path, count: int, *, size: tuple[int, int], block: int, units: int = 1000, seed: int = 0
) -> None:
    """Blocks of greys, the brighter the farther, from 1 m to 5 m, in `images` and `depth`."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        share = _blocks(generator.random(_counts(size, block)), block, size)
        grey = np.repeat((255 * share)[..., None], 3, axis=2)
        save(root / "images" / f"{index:02}.png", _noisy(grey, generator))
        save(root / "depth" / f"{index:02}.png", ((1 + 4 * share) * units).astype(np.uint16))


def write_classes(root: Path, count: int, *, size: tuple[int, int], seed: int = 0) -> None:
    """A folder for each of three colours, `count` pictures of it in each."""
    generator = np.random.default_rng(seed)
    for label, colour in enumerate(COLOURS):
        for index in range(count):
            plain = np.broadcast_to(colour, (*size, 3))
            save(root / f"colour{label}" / f"{index:02}.png", _noisy(plain, generator))


def save(path: Path, pixels: NDArray[np.generic]) -> None:
    """Write a PNG, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, "PNG", compress_level=1)


def _counts(size: tuple[int, int], block: int) -> tuple[int, int]:
    return -(-size[0] // block), -(-size[1] // block)


def _blocks(values: NDArray[np.generic], block: int, size: tuple[int, int]) -> NDArray[np.generic]:
    return values.repeat(block, axis=0).repeat(block, axis=1)[: size[0], : size[1]]


def _noisy(pixels: NDArray[np.generic], generator: np.random.Generator) -> NDArray[np.uint8]:
    noise = generator.integers(-20, 21, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def fitted(
    model: Model,
    task: HeadTask,
    root: Path,
    storage: Path,
    *,
    size: tuple[int, int],
    rates: tuple[float, ...] = (1e-2,),
    epochs: int = 3,
    seed: int = 0,
    layers: Sequence[Layer] = (),
    both: bool = False,
    bins: int = 16,
    batch_size: int = 3,
    val: Path | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> Fitted:
    """`fit_head` with a quarter held out, or with the pictures of `val`."""
    from clsspec_export.fit.blueprint import Blueprint
    from clsspec_export.fit.fitting import Storage, fit_head
    from clsspec_export.fit.labelled import HeldOut, Labelled
    from clsspec_export.fit.training import Settings

    labelled = Labelled(task)
    training = labelled.training(root)
    if val is None:
        training, validation = HeldOut(0.25, seed).split(training, root)
    else:
        validation = labelled.validation(val, training)
    blueprint = Blueprint(model.manifest, layers, both, "tests", size=size)
    return fit_head(
        model,
        blueprint.head(training, bins),
        training.samples,
        validation.samples,
        Settings(epochs, rates, batch_size, seed),
        Storage(storage, 10**9),
        report=report,
    )
