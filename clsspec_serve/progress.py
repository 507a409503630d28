"""How far long work has come, on stderr: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

QUIET_SECONDS = 30.0
"""Longest silence between two plain lines while work is coming in."""


class Meter(Protocol):
    """What a piece of work tells about itself."""

    def advance(self, amount: int = 1) -> None:
        """Add `amount` units to what is done."""

    def update(self, done: int, total: int | None) -> None:
        """Set what is done, in units, and the total once it is known."""

    def note(self, text: str) -> None:
        """Show a short text, such as the latest figure, beside what is done from now on."""


@contextmanager
def progress(description: str, total: int | None, unit: str) -> Iterator[Meter]:
    """Show the work done inside the block; `unit` is `B` for bytes, else a plural noun.

    On a terminal a bar with the rate and the time left; elsewhere a line at each further tenth of
    the total, one after 30 s without any, and one at the end; nothing where the total is 1.
    """
    if sys.stderr.isatty():
        with _bar(description, total, unit) as meter:
            yield meter
        return
    lines = _Lines(description, total, unit)
    yield lines
    lines.finish()


class _Lines:
    def __init__(self, description: str, total: int | None, unit: str) -> None:
        self._description = description
        self._total = total
        self._unit = unit
        self._done = 0
        self._started = self._spoke = monotonic()
        self._spoken: int | None = None
        self._tenth = 0
        self._note = ""

    def advance(self, amount: int = 1) -> None:
        self.update(self._done + amount, self._total)

    def update(self, done: int, total: int | None) -> None:
        self._done, self._total = done, total
        tenth = 10 * done // total if total else 0
        if tenth > self._tenth or monotonic() - self._spoke >= QUIET_SECONDS:
            self._tenth = tenth
            self._speak()

    def note(self, text: str) -> None:
        self._note = f", {text}" if text else ""

    def finish(self) -> None:
        if self._spoken != self._done:
            self._speak()

    def _speak(self) -> None:
        if self._total == 1:
            return
        self._spoken, self._spoke = self._done, monotonic()
        rate = self._done / max(self._spoke - self._started, 1e-3)
        share = f"{100 * self._done // self._total} %, " if self._total else ""
        amounts = [self._done] if self._total is None else [self._done, self._total]
        done = " of ".join(_amount(amount, self._unit) for amount in amounts)
        speed = _amount(round(rate), self._unit)
        line = f"{self._description}: {share}{done}, {speed}/s{self._note}"
        print(line, file=sys.stderr, flush=True)


def _amount(number: int, unit: str) -> str:
    if unit != "B":
        return f"{number} {unit}"
    from rich.filesize import decimal

    return decimal(number)


class _Bar:
    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, amount: int = 1) -> None:
        self._bar.advance(self._task, amount)

    def update(self, done: int, total: int | None) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        self._bar.update(self._task, note=text)


@contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Meter]:
    from rich import progress as rich_progress
    from rich.console import Console

    columns: list[rich_progress.ProgressColumn] = [
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
    ]
    if unit == "B":
        columns += [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()]
    else:
        columns += [rich_progress.MofNCompleteColumn(), rich_progress.TextColumn(unit)]
    columns += [
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("{task.fields[note]}", markup=False),
    ]
    with rich_progress.Progress(*columns, console=Console(stderr=True)) as bar:
        yield _Bar(bar, bar.add_task(description, total=total, note=""))
