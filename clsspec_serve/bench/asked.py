"""What is to be measured: on which engines, with which sizes and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from clsspec_serve.arithmetic import token_counts, total_macs
from clsspec_serve.choices import EngineChoice, EngineName, Precision
from clsspec_serve.engines.select import PRECISIONS, choose_engine, installed_engines
from clsspec_serve.errors import UsageError
from clsspec_serve.images import DEFAULT_MAX_PIXELS
from clsspec_serve.manifest import Architecture, Manifest
from clsspec_serve.request import Size
from clsspec_serve.transform import plan

Runner = tuple[EngineName, Precision]


@dataclass(frozen=True)
class Case:
    """Batches of `batch` inputs of `size`, (H, W), in whole patches."""

    size: Size
    batch: int

    def rows(self, architecture: Architecture) -> int:
        """Tokens of the whole batch, which are the rows of the products."""
        return self.batch * sum(token_counts(architecture, self._grid(architecture)))

    def gflop(self, architecture: Architecture) -> float:
        """Of one input, in 1e9: two for each multiply-accumulate that `total_macs` counts."""
        return 2 * total_macs(architecture, self._grid(architecture)) / 1e9

    def _grid(self, architecture: Architecture) -> Size:
        return self.size[0] // architecture.patch_size, self.size[1] // architecture.patch_size


def cases(manifest: Manifest, sizes: Sequence[Size], batches: Sequence[int]) -> list[Case]:
    """Every size, or the model's own where there is none, with every batch.

    Sizes are padded to whole patches. Raises `UsageError` for a batch below 1 and for more pixels
    than a picture may have, `ImageError` for a size that is too large by itself.
    """
    preprocessing = manifest.preprocessing
    patch = manifest.architecture.patch_size
    shown = [
        plan(size, preprocessing, patch, size=size, policy="squash").input
        for size in sizes or [preprocessing.size]
    ]
    found = [Case(size, batch) for size, batch in product(shown, batches)]
    for case in found:
        pixels = case.batch * case.size[0] * case.size[1]
        if case.batch < 1 or pixels > DEFAULT_MAX_PIXELS:
            raise UsageError(
                f"a batch of {case.batch} inputs of {case.size[0]}x{case.size[1]}; accepted are "
                f"1 and more, up to {DEFAULT_MAX_PIXELS:,} pixels together"
            )
    return list(dict.fromkeys(found))


def runners(
    manifest: Manifest, engine: EngineChoice | None, precision: Precision | None
) -> list[Runner]:
    """Every installed engine, or the one that is asked for, at every precision, or the one asked.

    Precisions are those that the engine has of the bundle, but for one that is asked for. Raises
    as `choose_engine` does.
    """
    if engine is None:
        names = installed_engines()
    elif engine == "auto":
        names = [choose_engine(engine, precision or "fp32")]
    else:
        names = [choose_engine(engine, precision or PRECISIONS[engine][0])]
    found = [
        (name, each)
        for name in names
        for each in (manifest.precisions(name) if precision is None else PRECISIONS[name])
        if precision in (None, each)
    ]
    if not found:
        choose_engine("auto", precision or "fp32")  # says what to install
    return found
