"""Time and memory of full-resolution maps beside PyTorch's interpolate and argmax.

    python benchmarks/full_resolution.py [--runs 3] [--classes 150] [--cases 0,1]

`smooth` logits have a few likely classes per region and noise in every patch, as those of a trained
head; `random` ones have nothing to do with each other. The two ways run one after the other, in
alternating order; medians are printed, the ratio is taken pair by pair. Peak memory is that of a
process of its own, with Python, PyTorch and the logits in it; `idle` is that of one without work.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from clsspec_serve.dense.axes import bilinear_axis, picture_axis
from clsspec_serve.dense.full_resolution import argmax_map, argmax_of_mean_softmax

Size = tuple[int, int]


class Case(NamedTuple):
    """A grid of logits; `level`: the size that it is resized to on the way, `flip`: two views.

    Two views have a quarter of the pixels: PyTorch's way would take 21 GB for all.
    """

    kind: str
    grid: Size
    level: Size | None = None
    flip: bool = False

    @property
    def size(self) -> Size:
        """The picture's."""
        return (1500, 2000) if self.flip else (3000, 4000)

    def __str__(self) -> str:
        sizes = [self.grid, self.level, self.size] if self.level else [self.grid, self.size]
        steps = " → ".join("x".join(map(str, size)) for size in sizes)
        return f"{self.kind}, {steps}{', flip' if self.flip else ''}"


CASES = (
    Case("smooth", (37, 49)),
    Case("smooth", (37, 49), (518, 686)),
    Case("smooth", (72, 96)),
    Case("smooth", (214, 285)),
    Case("smooth", (214, 285), (2996, 3990)),
    Case("smooth", (37, 49), flip=True),
    Case("random", (37, 49)),
    Case("random", (72, 96)),
    Case("random", (214, 285)),
    Case("random", (214, 285), (2996, 3990)),
)


def logits_of(case: Case, classes: int, seed: int) -> NDArray[np.float32]:
    """`(h, w, classes)`."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((*case.grid, classes), dtype=np.float32)
    if case.kind == "random":
        return 3 * noise
    coarse = torch.from_numpy(rng.standard_normal((1, classes, 6, 8), dtype=np.float32))
    field = interpolate(coarse, case.grid, mode="bicubic")[0].permute(1, 2, 0).numpy()
    likely = rng.normal(-2, 2, classes).astype(np.float32)
    return 4 * field + likely + np.float32(0.4) * noise


def views_of(case: Case, classes: int) -> list[NDArray[np.float32]]:
    """The logits, and with `flip` those of the mirror image, which differ by noise."""
    logits = logits_of(case, classes, 0)
    if not case.flip:
        return [logits]
    noise = np.random.default_rng(1).standard_normal(logits.shape, dtype=np.float32)
    return [logits, np.ascontiguousarray(logits[:, ::-1]) + np.float32(0.2) * noise]


def ours(case: Case, classes: int) -> Callable[[], object]:
    """The building of the matrices is part of the work."""
    views = views_of(case, classes)

    def axis(index: int) -> NDArray[np.float32]:
        if case.level is None:
            return bilinear_axis(case.grid[index], case.size[index])
        level = case.level[index]
        inner = bilinear_axis(case.grid[index], level)
        return picture_axis(case.size[index], level, 0, level, inner)[1]

    def work() -> object:
        rows, columns = axis(0), axis(1)
        if not case.flip:
            return argmax_map(views[0], rows, columns)
        return argmax_of_mean_softmax([(views[0], rows, columns), (views[1], rows, columns[::-1])])

    return work


def naive(case: Case, classes: int) -> Callable[[], object]:
    """All classes at all pixels."""
    views = [
        torch.from_numpy(view).permute(2, 0, 1)[None].contiguous()
        for view in views_of(case, classes)
    ]

    def enlarged(values: torch.Tensor) -> torch.Tensor:
        for step in (case.level, case.size) if case.level else (case.size,):
            values = interpolate(values, step, mode="bilinear", align_corners=False)
        return values

    def work() -> object:
        with torch.inference_mode():
            if not case.flip:
                return enlarged(views[0]).argmax(1)
            mean = enlarged(views[0]).softmax(1)
            mean += enlarged(views[1]).softmax(1).flip(3)
            return mean.argmax(1)

    return work


WAYS = {"ours": ours, "naive": naive}
IDLE = "idle"


def peak(way: str, case: int, classes: int) -> int:
    """MB of a process of its own that does the work once, or only makes the logits."""
    call = [sys.executable, __file__, "--classes", str(classes), "--peak", way, str(case)]
    return int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--cases", default="", help="numbers from 0, such as 0,3; all unless given")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        way, index = arguments.peak
        work = WAYS.get(way, ours)(CASES[int(index)], arguments.classes)
        if way != IDLE:
            work()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return
    chosen = [int(n) for n in arguments.cases.split(",") if n] or range(len(CASES))
    # Before anything else: a process starts with the peak of the one that started it.
    peaks = [[peak(way, index, arguments.classes) for way in (*WAYS, IDLE)] for index in chosen]
    print(f"{arguments.classes} classes, {torch.get_num_threads()} threads\n")
    print("| logits | s | PyTorch, s | times as fast | peak MB | PyTorch, MB | idle, MB |")
    print("|---|---|---|---|---|---|---|")
    for index, memory in zip(chosen, peaks, strict=True):
        case = CASES[index]
        pair = [way(case, arguments.classes) for way in WAYS.values()]
        seconds: list[list[float]] = [[], []]
        for run in range(arguments.runs):
            for which in (0, 1) if run % 2 else (1, 0):
                start = time.perf_counter()
                pair[which]()
                seconds[which].append(time.perf_counter() - start)
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
        fast, slow = map(statistics.median, seconds)
        sizes = " | ".join(map(str, memory))
        print(f"| {case} | {fast:.2f} | {slow:.1f} | {ratio:.1f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
