"""A run over a data set whose processes are killed ends as one that nobody disturbed.

Killed is the run itself, which is begun again, or its workers, which it replaces: processes of this
machine, and those of a Ray cluster.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import tree
from dataset_sources import as_folder, named, picture
from http_server import colour_bundle

KILLS = 20
PICTURES = 40
WORKER_KILLS = 10
"""Of each runner with workers."""
WORKERS_PICTURES = 400
ODD = {"006.png": b"no picture", "021.png": picture(3), "030.png": picture(31)}
"""One that is none, one that was there before, and one that comes again."""
PROGRAM = Path(__file__).parents[1] / "dataset_process.py"


def begun(bundle: Path, source: Path, out: Path, runner: str = "here") -> subprocess.Popen[str]:
    """A process that is about to begin its run."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(bundle), str(source), str(out), runner],
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
    source = as_folder(tmp_path / "set", named(PICTURES) | ODD)
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


def workers(process: int, name: str) -> list[int]:
    """The descendants of a process whose command fits a name."""
    found = []
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        with suppress(OSError):  # it may end at any time
            found += workers(int(child), name)
            if re.match(name.encode(), Path(f"/proc/{child}/cmdline").read_bytes()):
                found.append(int(child))
    return found


def killed(process: int) -> bool:
    """Kill a process and all that it has begun; whether it was there."""
    victims = [process, *workers(process, "")]
    found = []
    for victim in victims:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            found.append(victim)
    return process in found


def records(out: Path) -> int:
    """How many shards are done."""
    with suppress(OSError):
        return sum(each.suffix == ".json" for each in (out / "shards").iterdir())
    return 0


@pytest.mark.parametrize(
    ("runner", "name"),
    [
        ("processes", ".*spawn_main"),
        ("ray", "ray::_Actor"),
        pytest.param("ray-decoders", "ray::(_Actor|_prepared)", marks=pytest.mark.stress),
    ],
)
def test_workers_that_are_killed_are_replaced_and_the_bytes_are_the_same(
    tmp_path: Path, tenth: bool, runner: str, name: str
) -> None:
    """At any moment but soon after a kill, as a shard that loses too many workers is given up."""
    bundle = colour_bundle(tmp_path / "colours")
    source = as_folder(tmp_path / "set", named(WORKERS_PICTURES) | ODD)
    whole, out = tmp_path / "whole", tmp_path / "out"
    with begun(bundle, source, whole, "processes") as process:
        assert process.wait(120) == 0
    chance, kills, wanted = random.Random(20260208), 0, 1 if tenth else WORKER_KILLS
    with begun(bundle, source, out, runner) as process:
        done = 0
        while process.poll() is None and kills < wanted:
            if records(out) < done + 3:
                time.sleep(0.002)
                continue
            time.sleep(chance.uniform(0, 0.02))
            victims = workers(process.pid, name)
            if victims:
                kills += killed(chance.choice(victims))
            done = records(out)
        assert process.wait(240) == 0
    assert tree(out) == tree(whole)
    print(f"{runner}: {kills} workers killed")
    assert kills == wanted


def test_workers_end_when_their_run_is_killed(tmp_path: Path) -> None:
    bundle = colour_bundle(tmp_path / "colours")
    source = as_folder(tmp_path / "set", named(WORKERS_PICTURES))
    out = tmp_path / "out"
    with begun(bundle, source, out, "processes") as process:
        while records(out) < 2:
            time.sleep(0.01)
        left = workers(process.pid, ".*spawn_main")
        process.kill()
        process.wait(60)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{each}").exists() for each in left):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(left) == 2
    assert records(out) < WORKERS_PICTURES // 4


@pytest.mark.stress
def test_nodes_that_are_lost_are_done_without(tmp_path: Path) -> None:
    """Two of four, with all of their processes, where there are two replicas."""
    losses, pictures = 2, 10 * WORKERS_PICTURES
    bundle = colour_bundle(tmp_path / "colours")
    source = as_folder(tmp_path / "set", named(pictures))
    whole, out = tmp_path / "whole", tmp_path / "out"
    with begun(bundle, source, whole, "processes") as process:
        assert process.wait(120) == 0
    done = 0
    with begun(bundle, source, out, "ray-nodes") as process:
        for _ in range(losses):
            while records(out) < done + pictures // 40:
                time.sleep(0.01)
            busy, *_ = workers(process.pid, "ray::_Actor")
            assert killed(parent(busy))
            done = records(out)
        assert process.wait(240) == 0
    assert tree(out) == tree(whole)


def parent(process: int) -> int:
    """Of a Ray worker its node."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.stress
def test_a_driver_whose_node_is_lost_ends(tmp_path: Path) -> None:
    """Ray ends a node, its workers included, whose agent has ended."""
    bundle = colour_bundle(tmp_path / "colours")
    source = as_folder(tmp_path / "set", named(10 * WORKERS_PICTURES))
    out = tmp_path / "out"
    with begun(bundle, source, out, "ray") as process:
        while records(out) < 2:
            time.sleep(0.01)
        (agent,) = workers(process.pid, "ray::RuntimeEnvAgent")
        os.kill(agent, signal.SIGKILL)
        assert process.wait(60) == 1
