"""One forward pass from pictures to features: the road that every front takes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineChoice, Policy, Precision, Task
from clsspec_serve.engines.protocol import Arrays, Engine
from clsspec_serve.engines.select import load_engine
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.images import DEFAULT_LIMITS, ImageLike, ImageLimits, read_image
from clsspec_serve.layers import TASKS, Layer, select_outputs
from clsspec_serve.manifest import Manifest
from clsspec_serve.models import find_bundle
from clsspec_serve.position import position_map
from clsspec_serve.transform import transform

FloatArray = NDArray[np.float32]
Picture = TypeVar("Picture", bound=ImageLike)
Size = tuple[int, int]

POSITION_CACHE = 32
"""Position maps kept per model; each takes h * w * D * 4 bytes."""


@dataclass(frozen=True)
class Prediction:
    """What was asked of one picture.

    `arrays` holds the outputs by their names in the bundle: `cls` `(D,)`, `patches` `(h, w, D)`,
    and further layers as `cls_5`, `patches_5`, `patches_5_raw`; all float32.
    """

    arrays: Mapping[str, FloatArray]
    geometry: Geometry

    @property
    def cls(self) -> FloatArray:
        """The [CLS] embedding of the last layer, `(D,)`."""
        return self._get("cls")

    @property
    def patches(self) -> FloatArray:
        """The patch map of the last layer, `(h, w, D)`."""
        return self._get("patches")

    def _get(self, name: str) -> FloatArray:
        if name not in self.arrays:
            raise UsageError(f"{name} was not asked for; there are {', '.join(self.arrays)}")
        return self.arrays[name]


@dataclass(frozen=True)
class Prepared:
    """One picture ready for the graph: `(4, H, W) uint8`, and where it lies in the picture."""

    pixels: NDArray[np.uint8]
    geometry: Geometry


class Model:
    """A bundle on an engine."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        table = bundle.position_table()

        @lru_cache(maxsize=POSITION_CACHE)
        def position(grid: Size) -> FloatArray:
            return position_map(bundle.manifest.position, table, grid)

        self._position = position

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    def __call__(
        self,
        image: ImageLike,
        *,
        tasks: Sequence[Task] = TASKS,
        layers: Sequence[Layer] = (),
        size: Size | None = None,
        policy: Policy | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Prediction:
        """Features of one picture; see `prepare` and `run` for the arguments and errors."""
        prepared = self.prepare(image, size=size, policy=policy, limits=limits)
        return self.run([prepared], tasks, layers)[0]

    def predict(
        self,
        images: Iterable[ImageLike],
        *,
        tasks: Sequence[Task] = TASKS,
        layers: Sequence[Layer] = (),
        size: Size | None = None,
        policy: Policy | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        batch_size: int = 8,
    ) -> Iterator[Prediction]:
        """Features of many pictures, in order; neighbours of one shape share a forward pass."""

        def refuse(image: ImageLike, error: ImageError) -> None:
            raise error

        found = self.predict_each(
            images,
            refuse,
            tasks=tasks,
            layers=layers,
            size=size,
            policy=policy,
            limits=limits,
            batch_size=batch_size,
        )
        return (prediction for _, prediction in found)

    def predict_each(
        self,
        images: Iterable[Picture],
        refuse: Callable[[Picture, ImageError], None],
        *,
        tasks: Sequence[Task] = TASKS,
        layers: Sequence[Layer] = (),
        size: Size | None = None,
        policy: Policy | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
        batch_size: int = 8,
    ) -> Iterator[tuple[Picture, Prediction]]:
        """As `predict`, each picture beside its features.

        A picture that cannot be read goes to `refuse` with the reason; unless that raises, the
        others go on without it.
        """
        waiting: deque[Picture] = deque()

        def prepared() -> Iterator[Prepared]:
            for image in images:
                try:
                    item = self.prepare(image, size=size, policy=policy, limits=limits)
                except ImageError as error:
                    refuse(image, error)
                    continue
                waiting.append(image)
                yield item

        for batch in batches(prepared(), batch_size):
            for prediction in self.run(batch, tasks, layers):
                yield waiting.popleft(), prediction

    def prepare(
        self,
        image: ImageLike,
        *,
        size: Size | None = None,
        policy: Policy | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> Prepared:
        """Read and transform one picture.

        `size` (H, W) and `policy` replace the bundle's own. Raises `ImageError`.
        """
        preprocessing, patch = self.manifest.preprocessing, self.manifest.architecture.patch_size
        pixels = read_image(image, limits)
        try:
            return Prepared(*transform(pixels, preprocessing, patch, size=size, policy=policy))
        except ImageError as error:
            if not isinstance(image, str | os.PathLike):
                raise
            raise ImageError(f"{os.fspath(image)}: {error}") from error

    def run(
        self,
        batch: Sequence[Prepared],
        tasks: Sequence[Task] = TASKS,
        layers: Sequence[Layer] = (),
    ) -> list[Prediction]:
        """One forward pass of pictures that have one shape.

        Raises `UsageError` for a layer that the bundle lacks and for pictures of several shapes,
        `EngineError` when the engine fails.
        """
        if len({item.pixels.shape for item in batch}) > 1:
            raise UsageError("pictures of several shapes do not fit in one forward pass")
        if not batch:
            return []
        wanted = [output.name for output in select_outputs(self.manifest.outputs, tasks, layers)]
        inputs: Arrays = {
            "pixels": np.stack([item.pixels for item in batch]),
            "position": self._position(batch[0].geometry.grid),
        }
        found = self.engine.run(inputs, wanted)
        return [
            Prediction({name: found[name][index] for name in wanted}, item.geometry)
            for index, item in enumerate(batch)
        ]


def load(
    model: str | Path | None,
    *,
    engine: EngineChoice = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
) -> Model:
    """Open a bundle (a folder or `hf:owner/name[@revision]`) on an engine.

    Raises `UsageError` for None, `BundleError`, `SourceError` or `EngineError`.
    """
    bundle = find_bundle(model)
    loaded = load_engine(bundle.graph, engine=engine, precision=precision, threads=threads)
    return Model(bundle, loaded)


def batches(prepared: Iterable[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Runs of neighbours with one shape, at most `size` long."""
    if size < 1:
        raise UsageError(f"batch size is {size}; accepted are 1 and more")
    batch: list[Prepared] = []
    for item in prepared:
        if batch and (len(batch) == size or item.pixels.shape != batch[0].pixels.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
