"""Twenty thousand pictures take no more memory than one thousand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dataset_sources import picture
from http_server import colour_bundle

PICTURES = 20_000
FIRST = 1000
GROWTH = 15
"""MB."""
_PROGRAM = """
import sys
from clsspec_serve import load
from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.working import Threads

model = load(sys.argv[1], threads=1)
asked = Asked(tasks=("cls", "patches", "depth"), policy="squash", shard_size=200)
work_off(model.bundle, Settings(sys.argv[2], sys.argv[3], asked), Here(model, Threads()))
print(open("/proc/self/status").read())
"""


def peak(bundle: Path, source: Path, out: Path) -> float:
    """MB of a process that works a source off."""
    command = [sys.executable, "-c", _PROGRAM, *map(str, (bundle, source, out))]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1000


def test_memory_does_not_grow_with_the_data_set(tmp_path: Path, tenth: bool) -> None:
    bundle = colour_bundle(tmp_path / "colours")
    source = tmp_path / "set"
    source.mkdir()
    contents = [picture(seed) for seed in range(50)]
    total = PICTURES // 10 if tenth else PICTURES
    for index in range(total):
        (source / f"{index:05}.png").write_bytes(contents[index % 50])
        if index + 1 == FIRST:
            small = peak(bundle, source, tmp_path / "small")
    large = peak(bundle, source, tmp_path / "large")
    print(f"{FIRST} pictures: {small:.0f} MB; {total}: {large - small:+.0f} MB")
    assert large - small < GROWTH
