"""A bounded number of bytes, lent to coroutines in the order in which they ask."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock


class Budget:
    """`total` bytes, of which `used` are lent. For the coroutines of one event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._lock = Lock()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextmanager
    def loan(self) -> Iterator[Loan]:
        """Nothing at first; what it comes to is given back at the end of the block."""
        loan = Loan(self)
        try:
            yield loan
        finally:
            with self._lock:
                loan.open = False
                self.used -= loan.amount
                self._admit()

    def _admit(self) -> None:
        """Whose turn it is, and for whom there is enough; with the lock held."""
        while self._waiting and self.used + self._waiting[0][0] <= self.total:
            amount, turn = self._waiting.popleft()
            self.used += amount
            turn.set_result(None)


class Loan:
    """The `amount` of bytes that one coroutine has, as long as the loan is open."""

    def __init__(self, budget: Budget) -> None:
        self.amount = 0
        self.open = True
        self._budget = budget

    def extend_at_once(self, more: int) -> bool:
        """Have `more` bytes if nobody has to wait for it, and say whether. In any thread.

        A loan that has ended is not extended.
        """
        budget = self._budget
        with budget._lock:
            if not self.open or budget._waiting or budget.used + more > budget.total:
                return False
            budget.used += more
            self.amount += more
            return True

    async def extend(self, more: int) -> None:
        """Have `more` bytes, once they are free; raises ValueError where they never will be."""
        budget = self._budget
        if self.amount + more > budget.total:
            raise ValueError(f"{self.amount + more} bytes of {budget.total}")
        if self.extend_at_once(more):
            return
        turn = asyncio.get_running_loop().create_future()
        with budget._lock:
            budget._waiting.append((more, turn))
            budget._admit()
        try:
            await turn
        except asyncio.CancelledError:
            with budget._lock:
                if turn.done() and not turn.cancelled():  # lent, and cancelled before it woke up
                    budget.used -= more
                else:
                    budget._waiting.remove((more, turn))
                budget._admit()
            raise
        self.amount += more
