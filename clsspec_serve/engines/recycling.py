"""Memory that waits to be used again, since to allocate it takes long."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Waiting:
    """Addresses by the size in bytes of the memory that is there.

    Threads may take and give at any time, and so may garbage that is collected within either:
    nothing waits for a lock, which could be the thread's own. `free` gives an address back to whom
    it is from, and never raises.
    """

    def __init__(self, free: Callable[[int], None]) -> None:
        self._free = free
        self._addresses: dict[int, deque[int]] = {}
        self._ended = False

    def take(self, size: int) -> int | None:
        """Memory of exactly this size, None where there is none."""
        try:
            return self._addresses[size].pop()
        except (KeyError, IndexError):
            return None

    def give(self, address: int, size: int) -> None:
        """Let memory wait for who takes it."""
        self._addresses.setdefault(size, deque()).append(address)
        if self._ended:
            self.drain()

    def drain(self) -> int:
        """Free all that waits; how many bytes that was."""
        freed = 0
        for size in [*self._addresses]:
            while (address := self.take(size)) is not None:
                self._free(address)
                freed += size
        return freed

    def end(self) -> None:
        """Nobody takes any more: what waits is freed, and what is given from now on."""
        self._ended = True
        self.drain()
