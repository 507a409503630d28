"""Runs of a plan as CUDA graphs: launched as one, in place of each of their kernels alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clsspec_serve.engines.device import Device
from clsspec_serve.engines.tensorrt.libraries import Refused
from clsspec_serve.errors import EngineError

LOG = logging.getLogger("clsspec.engine")

Addresses = tuple[int, ...]

MOST = 8
"""Known at a time: memory that is used again comes in few combinations."""


class Captures:
    """CUDA graphs of one execution context on one stream, all of its present shapes.

    In a graph are the addresses and shapes with which it was captured. TensorRT does some of its
    work in the first run after a change of shapes alone, so runs are captured that come again with
    the same memory. Where one cannot be captured none is any more.
    """

    def __init__(self, device: Device, stream: int) -> None:
        self._device, self._stream = device, stream
        self._known: dict[Addresses, int | None] = {}
        self._able = True

    def run(self, addresses: Addresses, enqueue: Callable[[], None]) -> None:
        """Put a run with memory at these addresses on the stream, as `enqueue` would do it."""
        if addresses not in self._known:
            enqueue()
            if len(self._known) == MOST:
                self._drop(next(iter(self._known)))
            self._known[addresses] = None
            return
        if self._known[addresses] is None and self._able:
            self._known[addresses] = self._captured(enqueue)
        captured = self._known[addresses]
        if captured is None:
            enqueue()
        else:
            self._device.replay(captured, self._stream)

    def forget(self) -> None:
        """Give all of them back, for other shapes; never raises, as it is for `__del__`, too."""
        for addresses in [*self._known]:
            self._drop(addresses)

    def _captured(self, enqueue: Callable[[], None]) -> int | None:
        try:
            return self._device.capture(self._stream, enqueue)
        except (EngineError, Refused) as error:
            self._able = False
            LOG.warning("tensorrt: runs are not captured: %s", str(error))
            return None

    def _drop(self, addresses: Addresses) -> None:
        captured = self._known.pop(addresses)
        if captured is not None:
            self._device.destroy(captured)
