from __future__ import annotations

import asyncio

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
        async with budget.lent(10):
            assert budget.used == 10

    asyncio.run(run())


def test_more_than_there_is_is_refused() -> None:
    async def run() -> None:
        with pytest.raises(ValueError, match="11 bytes of 10"):
            async with Budget(10).lent(11):
                pass

    asyncio.run(run())
