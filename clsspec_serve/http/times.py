"""Where the time of a request went, for its `Server-Timing` header, the log and traces."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PARTS = ("fetch", "decode", "queue", "model", "encode")


@dataclass(frozen=True)
class Part:
    """One of `PARTS`, for one picture or for all: seconds, from `start` of the monotonic clock."""

    name: str
    start: float
    seconds: float


@dataclass
class Times:
    """The parts of a request, as they ended."""

    parts: list[Part] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        """By part; where pictures were worked on side by side, those of the slowest."""
        longest: dict[str, float] = {}
        for part in self.parts:
            longest[part.name] = max(longest.get(part.name, 0.0), part.seconds)
        return longest

    def note(self, name: str, start: float, seconds: float) -> None:
        """A part is over."""
        self.parts.append(Part(name, start, seconds))

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """The block is that part, if it succeeds."""
        start = time.monotonic()
        yield
        self.note(name, start, time.monotonic() - start)

    def header(self) -> str:
        """In milliseconds, in the order of `PARTS` (W3C Server Timing)."""
        seconds = self.seconds
        return ", ".join(
            f"{name};dur={1000 * seconds[name]:.2f}" for name in PARTS if name in seconds
        )
