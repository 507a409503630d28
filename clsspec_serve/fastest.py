"""`--precision auto`: the fastest that is within its tolerance on this machine, by measuring."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np

from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineChoice, EngineName, Precision
from clsspec_serve.engines.gpus import ON_GPUS
from clsspec_serve.engines.select import choose_engine, running_engines
from clsspec_serve.errors import EngineError
from clsspec_serve.layers import FEATURES
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model
from clsspec_serve.transform import plan

LOG = logging.getLogger("clsspec.engine")

PASSES = 5
"""Of each, after one that does not count; the shortest is compared."""
BATCH = 4
GAIN = 1.05
"""Less than that is no reason to compute less than fp32."""


@dataclass(frozen=True)
class Candidate:
    """`seconds` of one forward pass, at its shortest."""

    engine: EngineName
    precision: Precision
    seconds: float


def fastest(
    bundle: Bundle,
    engine: EngineChoice = "auto",
    *,
    threads: int | None = None,
    device: int | None = None,
) -> tuple[EngineName, Precision]:
    """The engine and precision to run a bundle with; logs them, and what they were compared with.

    Every precision that the bundle has for the engine is started, which compares it with the
    bundle's reference, and timed on batches of the bundle's own size; with `auto` on each engine
    for CPUs, or on `cuda` where that runs. Raises `EngineError` where fp32 itself does not run.
    """
    found = []
    for name in _engines(engine, device):
        for precision in bundle.manifest.precisions(name):
            try:
                model = start(
                    bundle, engine=name, precision=precision, threads=threads, device=device
                )
                found.append(Candidate(name, precision, _shortest(model)))
            except EngineError as error:
                if precision == "fp32":
                    raise
                LOG.info("precision: %s on %s is left out: %s", precision, name, error)
    whole = min((each for each in found if each.precision == "fp32"), key=_seconds)
    best = min(found, key=_seconds)
    if whole.seconds < GAIN * best.seconds:
        best = whole
    others = ", ".join(f"{each.precision} on {each.engine} {_ms(each)}" for each in found)
    LOG.info("precision: %s on %s (%s for %d pictures)", best.precision, best.engine, others, BATCH)
    return best.engine, best.precision


def _engines(engine: EngineChoice, device: int | None) -> list[EngineName]:
    chosen = choose_engine("cuda" if engine == "auto" and device is not None else engine, "fp32")
    if engine != "auto" or chosen in ON_GPUS:
        return [chosen]
    return [name for name in running_engines() if name not in ON_GPUS]


def _shortest(model: Model) -> float:
    """Seconds of a pass; [CLS] and patches of a batch."""
    manifest = model.manifest
    size = manifest.preprocessing.size
    shown = plan(size, manifest.preprocessing, manifest.architecture.patch_size, size=size)
    pixels = np.zeros((BATCH, 4, *shown.input), np.uint8)
    outputs = model.request(tasks=FEATURES).needed
    times = []
    for _ in range(1 + PASSES):
        begin = time.perf_counter()
        model.infer(pixels, outputs, ())
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def _seconds(candidate: Candidate) -> float:
    return candidate.seconds


def _ms(candidate: Candidate) -> str:
    return f"{1000 * candidate.seconds:.0f} ms"
