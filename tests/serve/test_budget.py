from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from clsspec_serve.budget import Budget


async def holding(budget: Budget, amount: int, order: list[int], end: asyncio.Event) -> None:
    async with budget.lent(amount):
        order.append(amount)
        await end.wait()


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_fits_is_lent_at_once_and_comes_back() -> None:
    async def run() -> None:
        budget = Budget(10)
        async with budget.lent(4), budget.lent(6):
            assert budget.used == 10
        assert budget.used == 0

    asyncio.run(run())


def test_what_does_not_fit_waits_and_nobody_overtakes_it() -> None:
    async def run() -> None:
        budget, order, end = Budget(10), [], asyncio.Event()
        tasks = []
        for amount in (6, 7, 1):
            tasks.append(asyncio.create_task(holding(budget, amount, order, end)))
            await settled()
        assert order == [6]
        end.set()
        await asyncio.gather(*tasks)
        assert order == [6, 7, 1]
        assert budget.used == 0

    asyncio.run(run())


def test_who_gives_up_waiting_lets_the_next_one_in() -> None:
    async def run() -> None:
        budget, order, end = Budget(10), [], asyncio.Event()
        tasks = []
        for amount in (6, 7, 2):
            tasks.append(asyncio.create_task(holding(budget, amount, order, end)))
            await settled()
        tasks[1].cancel()
        await settled()
        assert order == [6, 2]
        end.set()
        await asyncio.gather(tasks[0], tasks[2])
        assert budget.used == 0

    asyncio.run(run())


def test_who_is_cancelled_just_when_its_turn_comes_gives_it_back() -> None:
    async def run() -> None:
        budget, order, end = Budget(10), [], asyncio.Event()
        first = asyncio.create_task(holding(budget, 10, order, end))
        await settled()
        second = asyncio.create_task(holding(budget, 10, order, end))
        await settled()
        first.cancel()
        while budget.used == 10 and not first.done():
            await asyncio.sleep(0)
        second.cancel()  # lent to it already, but it has not woken up
        await asyncio.gather(first, second, return_exceptions=True)
        assert budget.used == 0
        assert budget.take_at_once(10)

    asyncio.run(run())


def test_more_than_there_is_is_refused() -> None:
    async def run() -> None:
        with pytest.raises(ValueError, match="11 bytes of 10"):
            async with Budget(10).lent(11):
                pass

    asyncio.run(run())


def test_who_leaves_in_the_moment_in_which_memory_is_given_back_takes_none_along() -> None:
    """Cancelled first, then given back, before either of the tasks runs again."""

    async def run() -> None:
        budget, order, end = Budget(100), [], asyncio.Event()
        assert budget.take_at_once(60)
        waiting = asyncio.create_task(holding(budget, 50, order, end))
        await settled()
        waiting.cancel()
        budget.give(60)
        (left,) = await asyncio.gather(waiting, return_exceptions=True)
        assert isinstance(left, asyncio.CancelledError)
        await settled()
        assert budget.used == 0
        assert budget.take_at_once(100)

    asyncio.run(run())


def test_at_once_there_is_only_what_is_free_and_nobody_waits_for() -> None:
    async def run() -> None:
        budget, order, end = Budget(10), [], asyncio.Event()
        assert budget.take_at_once(6)
        assert not budget.take_at_once(5)
        waiting = asyncio.create_task(holding(budget, 9, order, end))
        await settled()
        assert not budget.take_at_once(1)
        assert budget.used == 6
        budget.give(6)
        end.set()
        await waiting
        assert order == [9]
        assert budget.used == 0

    asyncio.run(run())


def test_threads_and_coroutines_that_come_and_go_never_exceed_the_total_and_leave_nothing() -> None:
    budget, chance = Budget(100), random.Random(5)
    most = 0

    def in_a_thread(amount: int) -> None:
        nonlocal most
        if budget.take_at_once(amount):
            most = max(most, budget.used)
            budget.give(amount)

    async def one(amount: int, pool: ThreadPoolExecutor) -> None:
        nonlocal most
        pool.submit(in_a_thread, amount)
        async with budget.lent(amount):
            most = max(most, budget.used)
            await asyncio.sleep(0)

    async def run() -> None:
        with ThreadPoolExecutor(4) as pool:
            tasks = []
            for index in range(2000):
                tasks.append(asyncio.create_task(one(1 + 7 * index % 60, pool)))
                if index % 3 == 0:
                    await asyncio.sleep(0)
                if index % 2:
                    chance.choice(tasks[-20:]).cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await settled()

    asyncio.run(run())
    assert budget.used == 0
    assert 60 <= most <= 100
