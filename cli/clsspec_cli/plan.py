"""What `clsspec batch --plan` says."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from clsspec_serve.dataset.words import counted, kinds_of
from clsspec_serve.errors import OutputError

if TYPE_CHECKING:
    from clsspec_serve.dataset.planning import Plan, Sample

_UNITS = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def print_plan(plan: Plan, out: str, replicas: int) -> None:
    """Say it on stdout; raises `OutputError` where there is no room for it."""
    from rich.filesize import decimal

    words = f"pictures: {plan.pictures} in {counted(plan.shards, 'shard')}"
    if plan.shards_done:
        words += f"; {plan.pictures_done} in {plan.shards_done} are done"
    print(words)
    if not plan.files:
        return
    parts = ", ".join(f"{name} {decimal(size)}" for name, size in plan.sizes.items())
    print(f"to write: {counted(plan.files, 'file')}, {decimal(plan.size)}: {parts}")
    if plan.free is not None:
        print(f"free: {decimal(plan.free)}")
    if plan.unsearched:
        print("duplicates: not looked for here; they count as pictures in all of this")
    if plan.calibration is not None:
        print(f"codec: {plan.calibration.words()}")
    if plan.sample is not None:
        _print_sample(plan.sample, plan.coming, replicas)
    if plan.free is not None and plan.size > plan.free:
        raise OutputError(f"{out} has room for {decimal(plan.free)}, not for {decimal(plan.size)}")


def _print_sample(sample: Sample, coming: int, replicas: int) -> None:
    print(f"sample: {counted(sample.pictures, 'picture')}, {kinds_of(sample.failures)}")
    if sample.rate is None:
        return
    words = f"speed: {sample.rate:.1f} images/s on this machine"
    if replicas > 1:
        words = f"speed: {replicas} x {sample.rate:.1f} images/s, if all are as fast as one here"
    print(words + (f"; slowest: {sample.slowest}" if sample.slowest else ""))
    print(f"time: {duration(coming / (replicas * sample.rate))}")


def duration(seconds: float) -> str:
    """In its largest unit and the next one: `2 h 10 min`."""
    left = max(1, round(seconds))
    for (name, unit), (smaller, part) in pairwise(_UNITS):
        if left >= unit:
            whole, rest = divmod(left, unit)
            return f"{whole} {name}" + (f" {rest // part} {smaller}" if rest // part else "")
    return f"{left} s"
