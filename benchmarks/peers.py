"""clsspec's engines beside what else runs the same ViT on a CPU: same weights, same photographs.

    python benchmarks/peers.py [--names NAME,NAME] [--batch 1,8] [--size 224] [--seconds 60]
                               [--optimum PYTHON]

A plain timm architecture with random weights, built for this size so that nobody resizes positions,
runs as the documentation of each tool says, with the tool's own defaults for threads:

- timm: `forward_features` in `inference_mode`, in fp32 (what all are compared with), under autocast
  in bf16, and with `torch.compile`.
- transformers: `Dinov2Model` with the same weights.
- ONNX Runtime: `torch.onnx.export(dynamo=True)` of the timm model at this size and batch, and an
  `InferenceSession`.
- Optimum, with `--optimum`: `ORTModelForFeatureExtraction` of what that `Dinov2Model` saves. It
  needs transformers 4, so PYTHON is that of another environment, made by `python -m venv` and
  `pip install "optimum-onnx[onnxruntime]" pillow`, and it runs in a process of its own.
- clsspec: the exported backbone, for any size and batch, on every installed engine and precision.

The peers get tensors that are normalised already, which is not counted; clsspec gets bytes and
normalises them inside what is timed. Before the timing every candidate computes all photographs,
and how near its tokens are to timm's in fp32 stands beside its times.

All take turns in common rounds, as in `clsspec bench`: before each turn is a pause in which the
threads of the one before stop spinning, and ratios are taken round by round. At small batches a
turn is several forward passes, so that little of it is the first, for which the cores wake up.
Others at work on the cores slow some tools more than others: the shortest turns are nearest to a
quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from peers_candidates import (
    BASE,
    OURS,
    Batch,
    Candidate,
    FloatArray,
    Forward,
    candidates,
    write_bundle,
)
from peers_workers import WorkerFailed, Workers

from clsspec_export.architectures import create
from clsspec_export.random_weights import randomize
from clsspec_serve.bench.machine import this_machine
from clsspec_serve.bench.rounds import Work, measure
from clsspec_serve.bench.times import Times, quartiles
from clsspec_serve.engines.select import installed_engines
from clsspec_serve.errors import one_line
from clsspec_serve.images import read_image
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.transform import transform

NAMES = "vit_small_patch14_dinov2"
PICTURES = Path(__file__).parent.parent / "examples"
GOALS = ((1.9, 0.999), (3.0, 0.99))
"""Times as fast as timm in fp32, at a cosine of at least this."""
TURN = 8
"""Pictures in a turn, at least: as many passes as that takes."""


def batches(preprocessing: Preprocessing, size: int, patch: int, length: int) -> list[Batch]:
    """All photographs in batches of this length, the first ones again at the end of the last."""
    pictures = [
        transform(read_image(path), preprocessing, patch, size=(size, size), policy="squash")[0]
        for path in sorted(PICTURES.glob("*.jpg"))
    ]
    count = -(-len(pictures) // length) * length
    pixels = np.stack([pictures[index % len(pictures)] for index in range(count)])
    mean, std = (
        np.array(values, np.float32).reshape(3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    normalised = torch.from_numpy((pixels[:, :3].astype(np.float32) / 255 - mean) / std)
    return [
        Batch(pixels[first : first + length], normalised[first : first + length])
        for first in range(0, count, length)
    ]


def cosines(found: FloatArray, base: FloatArray) -> tuple[float, float]:
    """The smallest of [CLS] and of the patches."""
    a, b = found.astype(np.float64), base.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    each = (a * b).sum(axis=-1) / norms
    return float(each[:, 0].min()), float(each[:, 1:].min())


def prepared(
    given: list[Batch], each_candidate: Iterable[Candidate]
) -> tuple[dict[str, Forward], dict[str, tuple[float, float]], list[str]]:
    """What runs, how near it is to `BASE`, and what does not run and why."""
    forwards: dict[str, Forward] = {}
    near: dict[str, tuple[float, float]] = {}
    refused = []
    base = None
    for name, build, tokens_of in each_candidate:
        try:
            forward = build()
            tokens = np.concatenate([tokens_of(forward(batch)) for batch in given])
        except Exception as error:  # one that does not run here does not end the others
            refused.append(f"{name} does not run: {type(error).__name__}: {one_line(error)}")
            continue
        base = tokens if base is None else base
        forwards[name], near[name] = forward, cosines(tokens, base)
    return forwards, near, refused


def measured(
    name: str, lengths: list[int], size: int, seconds: float, optimum: str | None
) -> list[dict[str, Any]]:
    """An object for each batch of one model, all in common rounds."""
    model = create(name, img_size=size)
    randomize(model)
    with tempfile.TemporaryDirectory() as temporary, Workers() as workers:
        folder = Path(temporary)
        bundle = write_bundle(model, name, folder)
        patch = bundle.manifest.architecture.patch_size
        preprocessing = bundle.manifest.preprocessing
        given = {each: batches(preprocessing, size, patch, each) for each in lengths}
        ready = {
            each: prepared(
                given[each], candidates(model, bundle, given[each][0], folder, workers, optimum)
            )
            for each in lengths
        }
        works = {
            each: [repeated(forward, given[each][0]) for forward in ready[each][0].values()]
            for each in lengths
        }
        busy, started = others_busy(workers), time.perf_counter()
        found = measure(works, seconds=seconds)
        others = (others_busy(workers) - busy) / (time.perf_counter() - started)
    reports = []
    for each in lengths:
        forwards, near, refused = ready[each]
        times = dict(zip(forwards, (passes(every, each) for every in found[each]), strict=True))
        rows = [
            row(candidate, own, times[BASE], near[candidate], each)
            for candidate, own in times.items()
        ]
        reports.append(
            {
                "model": name,
                "size": size,
                "batch": each,
                "rounds": len(found[each][0]),
                "cores_of_others": others,
                "rows": rows,
                "refused": refused,
                "optimum": workers.versions(),
            }
        )
    return reports


def repeated(forward: Forward, batch: Batch) -> Work:
    """A turn's passes."""

    def work() -> None:
        for _ in range(-(-TURN // len(batch.pixels))):
            forward(batch)

    return work


def passes(rounds: list[list[float]], length: int) -> Times:
    """Of one pass, the mean of its turn."""
    count = -(-TURN // length)
    return Times([[seconds / count for seconds in each] for each in rounds])


def others_busy(workers: Workers) -> float:
    """Seconds of CPU since the machine started, without this process and its workers (Linux)."""
    user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    ticks = sum(map(int, (user, nice, system, irq, softirq)))
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time() - workers.cpu_seconds()


def row(
    name: str, times: Times, base: Times, near: tuple[float, float], batch: int
) -> dict[str, Any]:
    """`speed`: how often it runs while `BASE` runs once, in the median round.

    `speed_shortest`: the same of the shortest turn of both.
    """
    ratios = base.ratios(times)
    return {
        "candidate": name,
        "ms": 1000 * times.median,
        "images_per_second": batch / times.median,
        "speed": statistics.median(ratios),
        "quartiles": quartiles(ratios),
        "shortest_ms": 1000 * times.shortest,
        "speed_shortest": base.shortest / times.shortest,
        "cosine_cls": near[0],
        "cosine_patches": near[1],
    }


def lines(report: dict[str, Any]) -> Iterator[str]:
    """A Markdown table, and below it what does not run and whether the goals are met."""
    size = report["size"]
    yield (
        f"{report['model']}, {size} x {size}, batch {report['batch']}, "
        f"{report['rounds']} rounds; others kept {report['cores_of_others']:.2f} cores busy"
    )
    yield ""
    columns = ["", "ms", "images/s", f"over {BASE}", "quartiles", "shortest ms", "over shortest"]
    columns += ["cosine [CLS]", "patches"]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for each in report["rows"]:
        middle = each["quartiles"]
        cells = [
            each["candidate"],
            f"{each['ms']:.1f}",
            f"{each['images_per_second']:.1f}",
            f"{each['speed']:.2f}",
            "-" if middle is None else f"{middle[0]:.2f}-{middle[1]:.2f}",
            f"{each['shortest_ms']:.1f}",
            f"{each['speed_shortest']:.2f}",
            f"{each['cosine_cls']:.6f}",
            f"{each['cosine_patches']:.6f}",
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    yield from report["refused"]
    yield from (f"Optimum's own Python has {each}" for each in report["optimum"])
    for goal, least in GOALS:
        able = [
            each
            for each in report["rows"]
            if each["candidate"].startswith(OURS)
            and min(each["cosine_cls"], each["cosine_patches"]) >= least
        ]
        best = max(able, key=lambda each: each["speed"], default=None)
        if best is None:
            yield f"Goal of {goal} x {BASE} at cosine {least} and above: nothing is that near"
            continue
        yield (
            f"Goal of {goal} x {BASE} at cosine {least} and above: "
            f"{'met' if best['speed'] >= goal else 'not met'}; {best['candidate']} is "
            f"{best['speed']:.2f} x as fast, {best['speed_shortest']:.2f} x by the shortest turns"
        )
    yield ""


def machine() -> str:
    """Processor, versions and threads."""
    text = this_machine(None, installed_engines()).text()
    packages = {"torch": torch, "timm": timm, "transformers": transformers}
    versions = ", ".join(f"{name} {each.__version__}" for name, each in packages.items())
    return f"{text}, {versions}; threads of PyTorch: {torch.get_num_threads()}"


def main() -> None:
    """Print a table of each model and batch, or with --json an object for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=NAMES)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--optimum", metavar="PYTHON")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    lengths = [int(each) for each in arguments.batch.split(",")]
    for name in arguments.names.split(","):
        try:
            reports = measured(name, lengths, arguments.size, arguments.seconds, arguments.optimum)
        except WorkerFailed as error:
            parser.exit(1, f"{error}; what was measured is lost\n")
        for report in reports:
            if arguments.json:
                print(json.dumps(report | {"machine": machine()}), flush=True)
            else:
                print("\n".join(lines(report)), flush=True)
    if not arguments.json:
        print(machine())
        if arguments.optimum is None:
            print("Optimum is left out; --optimum PYTHON of an environment that has it adds it")


if __name__ == "__main__":
    main()
