"""Numbers in the words in which a run tells of them."""

from __future__ import annotations

from collections.abc import Mapping


def counted(number: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def kinds_of(failures: Mapping[str, int]) -> str:
    """`3 failed: 1 too large, 2 unreadable`, or `none failed`."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items()))
    return f"{sum(failures.values())} failed: {kinds}" if kinds else "none failed"
