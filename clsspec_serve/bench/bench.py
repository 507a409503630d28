"""A bundle measured on the engines of this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clsspec_serve.bench.asked import Case, Runner
from clsspec_serve.bench.ceiling import Products, fastest_products
from clsspec_serve.bench.forward import forward
from clsspec_serve.bench.machine import this_machine
from clsspec_serve.bench.preprocessing import time_preprocessing
from clsspec_serve.bench.report import Failure, Report
from clsspec_serve.bench.rounds import Work, measure
from clsspec_serve.bench.row import Ceiling, Row
from clsspec_serve.bench.times import Times
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.engines.select import PRECISIONS, installed_engines, load_engine
from clsspec_serve.errors import EngineError
from clsspec_serve.loading import build, start
from clsspec_serve.manifest import OF_FP32
from clsspec_serve.predictor import Model
from clsspec_serve.progress import progress


@dataclass(frozen=True)
class Effort:
    """How long each engine and precision is measured: for `rounds`, or else for `seconds`."""

    seconds: float = 10.0
    rounds: int | None = None


def bench(
    bundle: Bundle,
    chosen: Sequence[Runner],
    asked: Sequence[Case],
    picture: bytes,
    *,
    twin: Bundle | None = None,
    threads: int | None = None,
    effort: Effort = Effort(),
) -> Report:
    """Measure a bundle on each runner; one that cannot run does not end the others.

    `twin`: the plain twin, timed beside it. `picture`: a JPEG, for the preprocessing.
    """
    started = time.perf_counter()
    rows: list[Row] = []
    failures = []
    for name, precision in chosen:
        try:
            rows += _measure((name, precision), bundle, twin, asked, threads, effort)
        except EngineError as error:
            failures.append(Failure(name, precision, str(error)))
    sizes = dict.fromkeys(case.size for case in asked)
    return Report(
        model=bundle.manifest.name,
        path=str(bundle.path),
        architecture=bundle.manifest.architecture.name,
        machine=this_machine(threads, [name for name, _ in chosen]),
        rows=tuple(rows),
        failures=tuple(failures),
        preprocessing=tuple(time_preprocessing(bundle.manifest, picture, size) for size in sizes),
        seconds=time.perf_counter() - started,
    )


def _measure(
    runner: Runner,
    bundle: Bundle,
    twin: Bundle | None,
    asked: Sequence[Case],
    threads: int | None,
    effort: Effort,
) -> list[Row]:
    """All cases in common rounds, with the twin and with the products of every engine."""
    name, precision = runner
    sizes = len(asked)
    models = [start(bundle, engine=name, precision=precision, threads=threads, sizes=sizes)]
    if twin is not None:
        models.append(build(twin, engine=name, precision=precision, threads=threads, sizes=sizes))
    works: dict[Case | EngineName, list[Work]] = {
        case: [forward(model, case) for model in models] for case in asked
    }
    products = _products(precision, models[0], asked, threads)
    works |= {each.engine: [each.run] for each in products}
    with progress(f"Measuring {name} {precision}", effort.rounds, "rounds") as meter:
        found = measure(
            works, seconds=effort.seconds, rounds=effort.rounds, done=lambda: meter.advance()
        )
    ceilings = [
        Ceiling(each.engine, each.shape, each.shape.flops / Times(found[each.engine][0]).shortest)
        for each in products
    ]
    best = max(ceilings, key=lambda each: each.flops, default=None)
    rows = []
    for case in asked:
        times, *others = (Times(rounds) for rounds in found[case])
        rows.append(
            Row(
                engine=name,
                precision=precision,
                size=case.size,
                batch=case.batch,
                gflop=case.gflop(bundle.manifest.architecture),
                gpu=None if models[0].gpu is None else str(models[0].gpu),
                times=times,
                twin=others[0] if others else None,
                ceiling=best,
            )
        )
    return rows


def _products(
    precision: Precision, model: Model, asked: Sequence[Case], threads: int | None
) -> list[Products]:
    """Those of every engine that has the precision and runs where the model does."""
    architecture = model.manifest.architecture
    rows = max(case.rows(architecture) for case in asked)
    found = []
    for name in installed_engines():
        # TensorRT would build a plan of each for minutes.
        if name == "tensorrt" or precision not in PRECISIONS[name]:
            continue

        def load(graph: Path, engine: EngineName = name) -> Engine:
            return load_engine(graph, engine=engine, precision=precision, threads=threads)

        try:
            written: Precision = "fp32" if precision in OF_FP32[name] else precision
            products = fastest_products(name, load, architecture, rows, written, gpu=model.gpu)
        except EngineError:  # the report says why, where a model is to run there
            continue
        if products is not None:
            found.append(products)
    return found
