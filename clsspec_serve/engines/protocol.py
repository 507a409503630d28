"""What every engine is to the rest of clsspec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from clsspec_serve.choices import Precision

Arrays = Mapping[str, NDArray[Any]]


class Engine(Protocol):
    """A graph loaded on a device, ready to run.

    `precision` is the one that was asked for and is in force; no engine chooses its own.
    """

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> Precision: ...

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the graph and return the named outputs; shapes as the graph declares them.

        Several threads may call it at once.

        Raises `EngineError` when the runtime refuses the inputs.
        """
        ...
