from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from clsspec_serve.budget import Budget


async def holding(budget: Budget, amount: int, order: list[int], end: asyncio.Event) -> None:
    with budget.loan() as loan:
        await loan.extend(amount)
        order.append(amount)
        await end.wait()


async def settled() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_fits_is_lent_at_once_and_comes_back() -> None:
    async def run() -> None:
        budget = Budget(10)
        with budget.loan() as first, budget.loan() as second:
            await first.extend(4)
            await second.extend(1)
            await second.extend(5)
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
        with budget.loan() as loan:
            assert loan.extend_at_once(10)

    asyncio.run(run())


def test_more_than_there_is_is_refused() -> None:
    async def run() -> None:
        with Budget(10).loan() as loan:
            await loan.extend(4)
            with pytest.raises(ValueError, match="11 bytes of 10"):
                await loan.extend(7)

    asyncio.run(run())


def test_at_once_there_is_only_what_is_free_and_nobody_waits_for() -> None:
    async def run() -> None:
        budget, order, end = Budget(10), [], asyncio.Event()
        with budget.loan() as loan:
            assert loan.extend_at_once(6)
            assert not loan.extend_at_once(5)
            waiting = asyncio.create_task(holding(budget, 9, order, end))
            await settled()
            assert not loan.extend_at_once(1)
            assert budget.used == 6
        end.set()
        await waiting
        assert order == [9]
        assert budget.used == 0

    asyncio.run(run())


def test_a_thread_that_comes_too_late_is_lent_nothing() -> None:
    budget = Budget(10)
    with budget.loan() as loan:
        pass
    assert not loan.extend_at_once(1)
    assert budget.used == 0


def test_loans_of_threads_and_of_coroutines_never_exceed_the_total() -> None:
    budget = Budget(100)
    most = 0

    async def one(pool: ThreadPoolExecutor, amount: int) -> None:
        nonlocal most
        with budget.loan() as loan:
            at_once = pool.submit(loan.extend_at_once, amount)
            if not await asyncio.wrap_future(at_once):
                await loan.extend(amount)
            most = max(most, budget.used)
            await asyncio.sleep(0)
        assert loan.amount == amount

    async def run() -> None:
        with ThreadPoolExecutor(4) as pool:
            await asyncio.gather(*(one(pool, 1 + 7 * index % 60) for index in range(400)))

    asyncio.run(run())
    assert budget.used == 0
    assert 60 <= most <= 100
