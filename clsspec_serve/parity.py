"""How close an engine's features are to PyTorch's, and how close they must be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.bundle import REFERENCE, Bundle
from clsspec_serve.choices import Precision
from clsspec_serve.errors import BundleError
from clsspec_serve.predictor import Model

Array = NDArray[Any]

MAX_DIFFERENCE = 1e-4
"""fp32: the largest difference, relative to the reference's largest value."""

MIN_COSINE: dict[Precision, float] = {"fp32": 0.99999, "bf16": 0.999, "fp16": 0.999, "int8": 0.99}
"""The smallest cosine over all tokens, so that a few large ones do not hide the others."""


@dataclass(frozen=True)
class Difference:
    """One output compared with the reference.

    `relative`: max |a - b| / max |b| over the array. `cosine`: the smallest over its vectors.
    `agreement`: the share of the vectors whose largest value is at the same place.
    """

    output: str
    size: tuple[int, int]
    relative: float
    cosine: float
    agreement: float

    def within(self, precision: Precision) -> bool:
        """Whether the precision's tolerance is met; NaN never is."""
        close = precision != "fp32" or self.relative <= MAX_DIFFERENCE
        return close and self.cosine >= MIN_COSINE[precision]

    def describe(self, precision: Precision) -> str:
        """What was seen and what is accepted."""
        where = f"{self.output} at {self.size[0]}x{self.size[1]}"
        cosine = f"cosine {self.cosine:.6f}, at least {MIN_COSINE[precision]}"
        if precision != "fp32":
            return f"{where}: {cosine}"
        relative = f"relative difference {self.relative:.1e}, at most {MAX_DIFFERENCE:.0e}"
        return f"{where}: {relative}; {cosine}"


def compare(output: str, size: tuple[int, int], found: Array, reference: Array) -> Difference:
    """Compare two arrays of one shape, the last axis being the features."""
    if found.shape != reference.shape:
        raise BundleError(f"{output} has shape {found.shape}, the reference {reference.shape}")
    a, b = (x.astype(np.float64).reshape(-1, x.shape[-1]) for x in (found, reference))
    relative = np.abs(a - b).max() / np.abs(b).max()
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    # Two zero vectors point the same way; one beside another vector does not.
    alike = np.where(
        norms == 0, (a == b).all(axis=1), (a * b).sum(axis=1) / np.where(norms, norms, 1)
    )
    agreement = (a.argmax(axis=1) == b.argmax(axis=1)).mean()
    return Difference(output, size, float(relative), float(alike.min()), float(agreement))


@dataclass(frozen=True)
class Sample:
    """A network input `(B, 4, H, W) uint8` and the PyTorch outputs by name."""

    pixels: NDArray[np.uint8]
    outputs: dict[str, Array]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]


def run_sample(model: Model, sample: Sample) -> list[Difference]:
    """Run one sample and compare every output, of the backbone and of heads, that it has."""
    heads = [head.task for head in model.manifest.heads if head.task in sample.outputs]
    inputs = [i.name for head in model.manifest.heads for i in head.inputs if head.task in heads]
    features = [name for name in sample.outputs if name not in heads]
    found = model.infer(sample.pixels, list(dict.fromkeys(features + inputs)), heads)
    return [
        compare(name, sample.size, found[name], reference)
        for name, reference in sample.outputs.items()
    ]


def save_samples(samples: list[Sample], path: Path) -> None:
    """Write samples as one `.npz`: `0.pixels`, `0.cls`, `0.patches`, `1.pixels`, …"""
    arrays: dict[str, Array] = {}
    for index, sample in enumerate(samples):
        arrays[f"{index}.pixels"] = sample.pixels
        arrays |= {f"{index}.{name}": value for name, value in sample.outputs.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays)


def reference_samples(bundle: Bundle) -> Iterator[Sample]:
    """The samples that the bundle carries, from its export; raises `BundleError` without any."""
    if REFERENCE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: {REFERENCE} is missing; there is nothing to compare with"
        )
    with np.load(bundle.path / REFERENCE, allow_pickle=False) as arrays:
        index = 0
        while f"{index}.pixels" in arrays:
            prefix = f"{index}."
            names = [key for key in arrays if key.startswith(prefix) and key != f"{index}.pixels"]
            outputs = {key.removeprefix(prefix): arrays[key] for key in names}
            yield Sample(arrays[f"{index}.pixels"], outputs)
            index += 1
