"""A bounded queue between two stages of a pipeline, which ends for both when either one fails."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Ended(Exception):
    """The other side is not there any more."""


class Channel(Generic[T]):
    """At most `size` values on their way from one thread to another."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: deque[T] = deque()
        self._changed = Condition()
        self._closed = self._broken = False

    def put(self, value: T) -> None:
        """Wait for room; raises `Ended` when nobody will get the value."""
        with self._changed:
            while len(self._values) >= self._size and not self._broken:
                self._changed.wait()
            if self._broken:
                raise Ended
            self._values.append(value)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Every value until `close`; raises `Ended` when the other side broke off."""
        while True:
            with self._changed:
                while not (self._values or self._closed or self._broken):
                    self._changed.wait()
                if self._broken:
                    raise Ended
                if not self._values:
                    return
                value = self._values.popleft()
                self._changed.notify_all()
            yield value

    def close(self) -> None:
        """Nothing more is put."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def break_off(self) -> None:
        """Neither side goes on."""
        with self._changed:
            self._broken = True
            self._values.clear()
            self._changed.notify_all()
