"""The shapes that one plan is for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from clsspec_serve.errors import EngineError

Shape = tuple[int, ...]

LARGEST = 8
"""The batch that plans are for, as that of the server and of `Model.predict` is at most."""
SIZES = 4
"""Sizes for which an engine has plans: each is minutes of work, and has the weights once more."""

WITHOUT_BATCH = "position"
"""The input that all pictures of a batch share; the first axis of all others is the batch."""


@dataclass(frozen=True)
class Bucket:
    """Inputs of one size, in batches of 1 to `largest`.

    `sizes`: each input by name, and its shape without the batch, in the order of their names. The
    grid of `position` belongs to the size of `pixels`, so nothing but the batch varies.
    """

    sizes: tuple[tuple[str, Shape], ...]
    largest: int

    def shapes(self, batch: int) -> dict[str, Shape]:
        """The whole shape of each input, by name."""
        return {
            name: size if name == WITHOUT_BATCH else (batch, *size) for name, size in self.sizes
        }

    @property
    def label(self) -> str:
        """For a file's name: the largest input, and the largest batch, `4x518x518-b8`."""
        return f"{_product(max((size for _, size in self.sizes), key=math.prod))}-b{self.largest}"

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {_product(size)}" for name, size in self.sizes)
        return f"{sizes} in batches of 1 to {self.largest}"


def bucket_of(shapes: Mapping[str, Shape], largest: int) -> Bucket:
    """The bucket of inputs of these shapes.

    It depends on nothing but the shapes, so that equal inputs meet equal kernels in each process:
    a batch beyond `largest` goes into the bucket of the next power of two. Raises `EngineError`
    for inputs that are not of one batch.
    """
    batches = {shape[:1] for name, shape in shapes.items() if name != WITHOUT_BATCH}
    if len(batches) != 1 or min(batches) < (1,):
        words = ", ".join(f"{name} {_product(shape)}" for name, shape in shapes.items())
        raise EngineError(f"tensorrt failed: these are no inputs of one batch: {words or 'none'}")
    (batch,) = batches.pop()
    sizes = tuple(
        (name, shapes[name] if name == WITHOUT_BATCH else shapes[name][1:])
        for name in sorted(shapes)
    )
    return Bucket(sizes, largest if batch <= largest else 1 << (batch - 1).bit_length())


def _product(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "()"
