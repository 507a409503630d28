"""`clsspec serve`, or a server like it, as a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

SECONDS = 30
SERVE = (str(Path(sys.executable).with_name("clsspec")), "serve")


@dataclass
class Process:
    """A running server, its address and the lines of its stderr so far."""

    process: subprocess.Popen[str]
    lines: list[str]
    url: str = ""

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first match in a line of stderr."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            for line in self.lines:
                if match := re.search(pattern, line):
                    return match
            if self.process.poll() is not None:
                pytest.fail("the server ended: " + "".join(self.lines))
            time.sleep(0.01)
        pytest.fail(f"no {pattern}: " + "".join(self.lines))

    def wait_until_ready(self) -> None:
        """Until the warm-up is over."""
        end = time.monotonic() + SECONDS
        while httpx.get(f"{self.url}/health/ready", trust_env=False).status_code != 200:
            if time.monotonic() > end:
                pytest.fail("never ready")
            time.sleep(0.02)


@contextmanager
def running(
    *arguments: str | Path, command: Sequence[str] = SERVE, **environment: str
) -> Iterator[Process]:
    """A server on a free port; it is killed at the end if it still runs."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("CLSSPEC_")}
    process = subprocess.Popen(
        [*command, "--port", "0", *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=own | environment,
    )
    found = Process(process, [])
    stderr = process.stderr
    if stderr is None:
        raise RuntimeError("a pipe was asked for")
    reader = threading.Thread(target=lambda: found.lines.extend(stderr))
    reader.start()
    try:
        found.url = found.wait_for(r"clsspec: (http://\S+)")[1]
        yield found
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(SECONDS)
        reader.join(SECONDS)
        stderr.close()
