"""What every engine is to the rest of clsspec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.choices import Precision


class OnDevice(Protocol):
    """An array in the memory of the device that computed it."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def numpy(self) -> NDArray[Any]:
        """A copy in this machine's memory."""
        ...


Value = NDArray[Any] | OnDevice
Values = Mapping[str, Value]


def here(value: Value) -> NDArray[Any]:
    """The array in this machine's memory, copied where it is not there."""
    return value if isinstance(value, np.ndarray) else value.numpy()


class Engine(Protocol):
    """A graph loaded on a device, ready to run.

    `precision` is the one that was asked for and is in force; no engine chooses its own.
    """

    @property
    def name(self) -> str: ...

    @property
    def precision(self) -> Precision: ...

    def run(self, inputs: Values, outputs: Sequence[str]) -> Mapping[str, Value]:
        """Run the graph and return the named outputs; shapes as the graph declares them.

        Inputs are arrays, or what another engine of the same device returned. Outputs stay on the
        device. Several threads may call it at once.

        Raises `EngineError` when the runtime refuses the inputs.
        """
        ...


@runtime_checkable
class WithMemory(Protocol):
    """An engine on a device that has a memory of its own."""

    def keep(self, array: NDArray[Any]) -> OnDevice:
        """A copy there, for an input that many runs share; raises `EngineError`."""
        ...

    def room(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array for an input, to be filled, where the device copies from at full speed."""
        ...
