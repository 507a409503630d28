"""Peers that need a Python of their own: processes that answer lines, for `peers.py`."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray


class WorkerFailed(Exception):
    """A worker refused or has ended; the message is one line."""


class Worker:
    """A script with the model of a folder; `peers_optimum.py` says which lines it knows.

    `script`: beside this file. `folder`: absolute; whatever the process writes is in it. Raises
    `OSError` where `python` does not start.
    """

    def __init__(self, python: str, script: str, folder: Path) -> None:
        self.versions = ""
        self._script = script
        self._folder = folder
        self._sent: torch.Tensor | None = None
        # -I: neither PYTHONPATH nor the modules beside the script are for that Python.
        command = [python, "-I", str(Path(__file__).parent / script), str(folder)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"TMPDIR": str(folder)},
            )
        self._requests = cast(IO[str], self._process.stdin)
        self._answers = cast(IO[str], self._process.stdout)

    @property
    def _log(self) -> Path:
        return self._folder / "stderr"

    def ready(self) -> None:
        """Wait for the model; raises `WorkerFailed`."""
        self.versions = self._answer()

    def forward(self, normalised: torch.Tensor) -> Self:
        """One pass of `(B, 3, H, W)`, which are sent before if they are others than the last."""
        if normalised is not self._sent:
            file = self._folder / "pixels.npy"
            np.save(file, normalised.numpy())
            self._ask(f"pixels {file}")
            self._sent = normalised
        self._ask("pass")
        return self

    def tokens(self) -> NDArray[np.float32]:
        """Of the last pass, `(B, 1 + h * w, D)`."""
        file = self._folder / "tokens.npy"
        self._ask(f"tokens {file}")
        return np.load(file)

    def cpu_seconds(self) -> float:
        """What it has taken so far; 0 of one that has ended."""
        return float(self._ask("cpu")) if self._process.poll() is None else 0.0

    def close(self) -> None:
        """Let it end, and wait until it has."""
        with suppress(BrokenPipeError):  # a request that it did not live to read
            self._requests.close()
        self._process.wait()
        self._answers.close()

    def _ask(self, request: str) -> str:
        with suppress(BrokenPipeError):  # why it ended is in its answer
            print(request, file=self._requests, flush=True)
        return self._answer()

    def _answer(self) -> str:
        word, _, text = self._answers.readline().rstrip("\n").partition(" ")
        if word == "ok":
            return text
        code = self._process.wait()
        if word == "error":
            raise WorkerFailed(text)
        last = self._log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise WorkerFailed(f"{self._script} ended with exit code {code}; last on stderr: {last!r}")


class Workers:
    """Those of a benchmark; leaving the block ends them."""

    def __init__(self) -> None:
        self._started: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._started:
            worker.close()

    def start(self, python: str, script: str, folder: Path) -> Worker:
        """One that is ready; raises `OSError` and `WorkerFailed`."""
        worker = Worker(python, script, folder)
        self._started.append(worker)
        worker.ready()
        return worker

    def cpu_seconds(self) -> float:
        """Of all of them."""
        return sum(worker.cpu_seconds() for worker in self._started)

    def versions(self) -> list[str]:
        """What those that became ready run on, each once."""
        return list(dict.fromkeys(each.versions for each in self._started if each.versions))
