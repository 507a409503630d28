"""A bounded number of bytes, lent in the order in which they are asked for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Lock


class Budget:
    """`total` bytes, of which `used` are lent to coroutines of one event loop and to threads."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._lock = Lock()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def lent(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount`, at most `total`, for the block; wait until it is free."""
        await self.take(amount)
        try:
            yield
        finally:
            self.give(amount)

    def take_at_once(self, amount: int) -> bool:
        """Hold `amount` if nobody has to wait for it, and say whether. In any thread."""
        with self._lock:
            if self._waiting or self.used + amount > self.total:
                return False
            self.used += amount
            return True

    async def take(self, amount: int) -> None:
        """Hold `amount` until `give`; wait until it is free. Raises ValueError if it never is."""
        if amount > self.total:
            raise ValueError(f"{amount} bytes of {self.total}")
        if self.take_at_once(amount):
            return
        turn = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((amount, turn))
        # What was given back since the first try has told nobody.
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # lent, and cancelled before it woke up
                self.give(amount)
            else:
                self._admit()
            raise

    def give(self, amount: int) -> None:
        """Hold `amount` no more. In any thread."""
        with self._lock:
            self.used -= amount
            loops = {turn.get_loop() for _, turn in self._waiting}
        for loop in loops:
            loop.call_soon_threadsafe(self._admit)

    def _admit(self) -> None:
        """Lend to those whose turn it is; those who have left are forgotten. In the event loop."""
        with self._lock:
            while self._waiting:
                amount, turn = self._waiting[0]
                if not turn.done():
                    if self.used + amount > self.total:
                        return
                    self.used += amount
                    turn.set_result(None)
                self._waiting.popleft()
