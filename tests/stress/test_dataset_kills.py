"""A run over a data set that is killed, and killed again, ends as one that nobody disturbed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from command_line import tree
from dataset_sources import as_folder, named
from http_server import colour_bundle

KILLS = 20
PICTURES = 40
PROGRAM = Path(__file__).parents[1] / "dataset_process.py"


def begun(bundle: Path, source: Path, out: Path) -> subprocess.Popen[str]:
    """A process that is about to begin its run."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(bundle), str(source), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PROGRAM.parent)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, tenth: bool) -> None:
    bundle = colour_bundle(tmp_path / "colours")
    source = as_folder(tmp_path / "set", named(PICTURES) | {"006.png": b"no picture"})
    whole, out = tmp_path / "whole", tmp_path / "out"
    start = time.monotonic()
    with begun(bundle, source, whole) as process:
        assert process.wait(60) == 0
    seconds = time.monotonic() - start
    chance, kills, done = random.Random(20260208), 0, []
    while kills < (KILLS // 10 if tenth else KILLS):
        with begun(bundle, source, out) as process:
            time.sleep(chance.uniform(0, 0.7 * seconds))
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        if process.returncode == 0:
            # It had ended before: the next one begins anew.
            assert tree(out) == tree(whole)
            shutil.rmtree(out)
            continue
        kills += 1
        shards = out / "shards"
        done.append(len(list(shards.iterdir())) if shards.exists() else 0)
    with begun(bundle, source, out) as process:
        assert process.wait(60) == 0
    assert tree(out) == tree(whole)
    print(f"{kills} kills, shards done after each: {done}")
