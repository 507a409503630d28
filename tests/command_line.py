"""The command line run inside of the test's own process, and the pictures it is given."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle as tiny
from numpy.typing import NDArray
from PIL import Image

from clsspec_cli import app


@dataclass(frozen=True)
class Result:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """The one line on stderr, without the program's name in front."""
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("clsspec: ")
        return line.removeprefix("clsspec: ")


Clsspec = Callable[..., Result]


def run(
    arguments: tuple[str | Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Result:
    """Run `clsspec` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["clsspec", *map(str, arguments)])
    notices = logging.getLogger("clsspec")
    # The command writes them to a stderr that is closed when the test is done.
    monkeypatch.setattr(notices, "handlers", notices.handlers)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        app.main()
    captured = capsys.readouterr()
    code = end.value.code
    return Result(0 if code is None else int(code), captured.out, captured.err)


def pixels_of(seed: int) -> NDArray[np.uint8]:
    """A picture of the tiny model's own size, which nothing resamples: `(H, W, 3)` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (*tiny.SIZE, 3), np.uint8)


def save_picture(path: Path, seed: int = 0) -> Path:
    """Write such a picture, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels_of(seed)).save(path, "PNG")
    return path


def features_of(seed: int) -> dict[str, NDArray[np.float32]]:
    """The tiny model's outputs for that picture, by name, without a batch."""
    pixels = np.ones((1, 4, *tiny.SIZE), np.uint8)
    pixels[0, :3] = pixels_of(seed).transpose(2, 0, 1)
    return {name: value[0] for name, value in tiny.features(pixels, tiny.POSITIONS).items()}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the files' contents, None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
