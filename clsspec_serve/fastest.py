"""`--precision auto`: the fastest that is within its tolerance on this machine, by measuring."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from clsspec_serve.bench.asked import cases
from clsspec_serve.bench.forward import forward
from clsspec_serve.bench.rounds import Work
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineChoice, EngineName, Precision
from clsspec_serve.engines.gpus import ON_GPUS
from clsspec_serve.engines.select import choose_engine, running_engines
from clsspec_serve.errors import EngineError
from clsspec_serve.loading import start

LOG = logging.getLogger("clsspec.engine")

PASSES = 5
"""Of each, at most, after one that does not count; the shortest is compared."""
SECONDS = 1.0
"""After which no further pass is begun: of a large model there is one, besides the first."""
TOKENS = 1024
"""Of a batch, about; a larger one would take longer to measure."""
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
    bundle's reference, and timed on a batch of the bundle's own size; with `auto` on each engine
    for CPUs, or on `cuda` where that runs. Raises `EngineError` where fp32 itself does not run.
    """
    (one,) = cases(bundle.manifest, [], [1])
    case = replace(one, batch=max(1, TOKENS // one.rows(bundle.manifest.architecture)))

    def seconds(name: EngineName, precision: Precision) -> float:
        # In a function, so that of two models only one is in memory.
        model = start(bundle, engine=name, precision=precision, threads=threads, device=device)
        return _shortest(forward(model, case))

    found = []
    for name in _engines(engine, device):
        for precision in bundle.manifest.precisions(name):
            try:
                found.append(Candidate(name, precision, seconds(name, precision)))
            except EngineError as error:
                if precision == "fp32":
                    raise
                LOG.info("precision: %s on %s is left out: %s", precision, name, error)
    whole = min((each for each in found if each.precision == "fp32"), key=_seconds)
    best = min(found, key=_seconds)
    if whole.seconds < GAIN * best.seconds:
        best = whole
    others = ", ".join(f"{each.precision} on {each.engine} {_ms(each)}" for each in found)
    batch = f"a batch of {case.batch}"
    LOG.info("precision: %s on %s (%s for %s)", best.precision, best.engine, others, batch)
    return best.engine, best.precision


def _engines(engine: EngineChoice, device: int | None) -> list[EngineName]:
    chosen = choose_engine("cuda" if engine == "auto" and device is not None else engine, "fp32")
    if engine != "auto" or chosen in ON_GPUS:
        return [chosen]
    return [name for name in running_engines() if name not in ON_GPUS]


def _shortest(run: Work) -> float:
    """Seconds of a pass."""
    run()
    times: list[float] = []
    while len(times) < PASSES and sum(times) < SECONDS:
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def _seconds(candidate: Candidate) -> float:
    return candidate.seconds


def _ms(candidate: Candidate) -> str:
    return f"{1000 * candidate.seconds:.0f} ms"
