"""The machine that numbers are of."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from clsspec_serve.choices import EngineName
from clsspec_serve.engines.select import engine_version


@dataclass(frozen=True)
class Machine:
    """`cores`: those that this process may use. `threads` None: all of them."""

    processor: str
    cores: int
    threads: int | None
    versions: dict[str, str]

    def text(self) -> str:
        """In words."""
        threads = "" if self.threads is None else f", threads: {self.threads}"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.processor}, cores: {self.cores}{threads}; {versions}"


def this_machine(threads: int | None, engines: Sequence[EngineName]) -> Machine:
    """After the engines were loaded, as it is they that know their versions."""
    found = {"clsspec-serve": version("clsspec-serve")}
    for name in dict.fromkeys(engines):
        own = engine_version(name)
        if own is not None:
            found[name] = own.partition("-")[0]
    # Only Linux tells which of them this process may use.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return Machine(_processor(), cores, threads, found)


def _processor() -> str:
    """Its own name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
