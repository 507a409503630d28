from __future__ import annotations

import io
import sys

import pytest

from clsspec_serve import progress as module
from clsspec_serve.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_without_a_terminal_each_tenth_is_one_line(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("Extracting", 1000, "images") as meter:
        for _ in range(1000):
            clock.seconds += 0.01
            meter.advance()
    written = lines(capsys)
    assert len(written) == 10
    assert written[0] == "Extracting: 10 %, 100 images of 1000 images, 100 images/s"
    assert written[-1] == "Extracting: 100 %, 1000 images of 1000 images, 100 images/s"


def test_slow_work_is_not_silent_for_long(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Extracting", 10**8, "images") as meter:
        for _ in range(100):
            clock.seconds += 1.0
            meter.advance()
        assert len(lines(capsys)) == 3


def test_an_unknown_total_gives_no_share(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("Reading", None, "images") as meter:
        clock.seconds += 2.0
        meter.advance(6)
    assert lines(capsys) == ["Reading: 6 images, 3 images/s"]


def test_bytes_are_written_in_their_own_units(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("Downloading", None, "B") as meter:
        clock.seconds += 1.0
        meter.update(88_300_000, 88_300_000)
    assert lines(capsys) == ["Downloading: 100 %, 88.3 MB of 88.3 MB, 88.3 MB/s"]


def test_failed_work_is_not_reported_as_finished(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with progress("Extracting", 100, "images") as meter:
            meter.advance()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert lines(capsys) == []


@pytest.mark.parametrize("unit", ["B", "images"])
def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("Downloading", None, unit) as meter:
        meter.update(2, 4)
        meter.advance(2)
    written = terminal.getvalue()
    assert "Downloading" in written
    assert "\x1b[" in written
    assert "4/4" in written


def test_a_single_thing_is_done_in_silence(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("Extracting", 1, "images") as meter:
        clock.seconds += 60.0
        meter.advance()
    assert lines(capsys) == []


def test_a_note_stands_beside_what_is_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("Training", 2, "epochs") as meter:
        clock.seconds += 1.0
        meter.note("mIoU 40.0 %")
        meter.advance()
        meter.note("mIoU 50.0 %")
        meter.advance()
    assert lines(capsys) == [
        "Training: 50 %, 1 epochs of 2 epochs, 1 epochs/s, mIoU 40.0 %",
        "Training: 100 %, 2 epochs of 2 epochs, 2 epochs/s, mIoU 50.0 %",
    ]


def test_a_terminal_shows_a_note_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("Training", 2, "epochs") as meter:
        meter.note("RMSE [m] 0.5")
        meter.update(1, 2)
    assert "RMSE [m] 0.5" in terminal.getvalue()
