"""Which stage of a pipeline the others wait for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields

_SECONDS = 2.0
"""Between two looks."""


@dataclass
class Times:
    """Seconds that the stages have worked, or have been waited for."""

    reading: float = 0.0
    decoding: float = 0.0
    model: float = 0.0
    encoding: float = 0.0
    writing: float = 0.0

    @contextmanager
    def spent(self, stage: str) -> Iterator[None]:
        """The block is that stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            setattr(self, stage, getattr(self, stage) + time.monotonic() - start)


class Stalls:
    """What a pipeline waits for, lately."""

    def __init__(self, times: Times) -> None:
        self._times = times
        self._looked = time.monotonic()
        self._before = Times()
        self._stage = ""

    def slowest(self) -> str:
        """The slowest stage of the last seconds; an empty text before they are over."""
        if time.monotonic() - self._looked >= _SECONDS:
            self._look()
        return self._stage

    def _look(self) -> None:
        names = [field.name for field in fields(Times)]
        now, before = astuple(self._times), astuple(self._before)
        spent = {
            name: after - earlier for name, after, earlier in zip(names, now, before, strict=True)
        }
        self._stage = max(spent, key=lambda name: spent[name])
        self._before = Times(*now)
        self._looked = time.monotonic()
