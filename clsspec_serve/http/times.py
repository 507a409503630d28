"""Where the time of a request went, for its `Server-Timing` header."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PARTS = ("decode", "queue", "model", "encode")


@dataclass
class Times:
    """Seconds by part; where pictures were worked on side by side, those of the slowest."""

    seconds: dict[str, float] = field(default_factory=dict)

    def longest(self, part: str, seconds: float) -> None:
        """One picture took that long."""
        self.seconds[part] = max(self.seconds.get(part, 0.0), seconds)

    @contextmanager
    def measured(self, part: str) -> Iterator[None]:
        """The block is that part."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = time.monotonic() - start

    def header(self) -> str:
        """In milliseconds, in the order of `PARTS` (W3C Server Timing)."""
        return ", ".join(
            f"{part};dur={1000 * self.seconds[part]:.2f}" for part in PARTS if part in self.seconds
        )
