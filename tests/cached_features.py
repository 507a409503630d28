"""A model that counts the pictures that go through it, and the examples made of its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from clsspec_export.fit.examples import Examples, Extractor, Sample, identify
from clsspec_serve.bundle import open_bundle
from clsspec_serve.engines.protocol import Values
from clsspec_serve.errors import EngineError
from clsspec_serve.loading import start

SIZE = (28, 42)


def examples(
    extractor: Extractor,
    samples: Sequence[Sample],
    batch_size: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> Examples:
    known = identify(samples, lambda amount: None)
    return extractor.examples(known, batch_size=batch_size, advance=advance)


class Spied:
    """A model, and how many pictures went through it; it can be made to fail."""

    def __init__(self, bundle: Path) -> None:
        self.model = start(open_bundle(bundle), engine="onnxruntime")
        self.pictures = 0
        self.fails_after: int | None = None
        run = self.model.engine.run

        def spied(inputs: Values, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
            if self.fails_after is not None and self.pictures >= self.fails_after:
                raise EngineError("out of memory")
            self.pictures += len(inputs["pixels"])
            return run(inputs, outputs)

        self.model.engine.run = spied  # type: ignore[method-assign]  # what a spy does
