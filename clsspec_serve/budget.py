"""A bounded number of bytes, lent to coroutines in the order in which they ask."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """`total` bytes. For one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def lent(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount`, at most `total`, for the block; wait until it is free."""
        if amount > self.total:
            raise ValueError(f"{amount} bytes of {self.total}")
        await self._take(amount)
        try:
            yield
        finally:
            self._give(amount)

    async def _take(self, amount: int) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # admitted, and cancelled before it woke up
                self._give(amount)
            else:
                self._waiting.remove((amount, turn))
                self._admit()
            raise

    def _give(self, amount: int) -> None:
        self.used -= amount
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self.used + self._waiting[0][0] <= self.total:
            amount, turn = self._waiting.popleft()
            self.used += amount
            turn.set_result(None)
