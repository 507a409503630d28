"""Memory that waits to be used again, taken and given by many at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from clsspec_serve.engines.recycling import Waiting


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_only_memory_of_the_same_size_is_taken() -> None:
    waiting = Waiting(lambda address: None)
    assert waiting.take(8) is None
    waiting.give(1, 8)
    waiting.give(2, 16)
    assert (waiting.take(16), waiting.take(16), waiting.take(8)) == (2, None, 1)


def test_all_that_waits_is_freed_and_counted() -> None:
    freed: list[int] = []
    waiting = Waiting(freed.append)
    for address, size in ((1, 8), (2, 8), (3, 16)):
        waiting.give(address, size)
    assert waiting.drain() == 32
    assert sorted(freed) == [1, 2, 3]
    assert (waiting.drain(), waiting.take(8)) == (0, None)


def test_what_is_given_after_the_end_is_freed_at_once() -> None:
    freed: list[int] = []
    waiting = Waiting(freed.append)
    waiting.give(1, 8)
    waiting.end()
    assert freed == [1]
    waiting.give(2, 8)
    assert freed == [1, 2]


@pytest.mark.usefixtures("_switching")
def test_what_one_thread_frees_no_other_has() -> None:
    freed: set[int] = set()
    waiting = Waiting(freed.add)
    done = threading.Event()

    def drains() -> int:
        total = 0
        while not done.is_set():
            total += waiting.drain()
        return total

    def uses(first: int) -> None:
        for address in range(first, first + 3000):
            waiting.give(address, 8)
            taken = waiting.take(8)
            assert taken not in freed

    with ThreadPoolExecutor(4) as pool:
        total = pool.submit(drains)
        try:
            used = [pool.submit(uses, number * 10_000) for number in range(3)]
            for each in used:
                each.result()
        finally:
            done.set()
        assert total.result() == 8 * len(freed)
