"""One plan: the one that was kept, or a new one, looked at before it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clsspec_serve.choices import Precision
from clsspec_serve.engines.gpus import Gpu
from clsspec_serve.engines.tensorrt.buckets import Bucket
from clsspec_serve.engines.tensorrt.building import build
from clsspec_serve.engines.tensorrt.memory import Pool
from clsspec_serve.engines.tensorrt.plans import Made, PlanManifest, Plans, plan_name, plans_of
from clsspec_serve.engines.tensorrt.running import Plan
from clsspec_serve.errors import EngineError, OutputError

LOG = logging.getLogger("clsspec.engine")

Accept = Callable[[Plan], None]
"""Looks at a new plan, which is an engine for its own `bucket`; raises `EngineError` to refuse."""


@dataclass(frozen=True)
class Source:
    """A graph on a GPU, and what else its plans depend on.

    `module`: TensorRT. `digest`: see `plans.digest`. `architecture`: `sm90`.
    """

    module: Any
    pool: Pool
    gpu: Gpu
    architecture: str
    graph: Path
    digest: str
    precision: Precision
    accept: Accept | None

    def made(self, bucket: Bucket) -> Made:
        """What a plan for a bucket is to be of."""
        return Made(
            graph=self.digest,
            precision=self.precision,
            architecture=self.architecture,
            gpu=self.gpu.name,
            tensorrt=self.module.__version__,
            sizes=bucket.sizes,
            largest=bucket.largest,
        )

    def plans(self) -> Plans:
        """Where its plans are kept."""
        return plans_of(self.graph, self.digest, self.architecture, self.module.__version__)

    def name(self, bucket: Bucket) -> str:
        """A plan's name there."""
        return plan_name(self.graph, self.precision, bucket, self.gpu.name)


def make(source: Source, bucket: Bucket) -> Plan:
    """The plan that was kept for a bucket; where there is none that is right, a new one, kept.

    A new plan that `accept` refuses is not kept. Raises `EngineError`.
    """
    found = _kept(source, bucket)
    if isinstance(found, Plan):
        return found
    with source.plans().turn():
        # Another process can have built it meanwhile.
        found = _kept(source, bucket)
        if isinstance(found, Plan):
            return found
        LOG.info(
            "tensorrt: builds a plan of %s in %s for %s on %s, which can take minutes: %s",
            source.graph.name,
            source.precision,
            bucket,
            source.gpu,
            found,
        )
        return _built(source, bucket)


def _kept(source: Source, bucket: Bucket) -> Plan | str:
    """The plan, or why there is none."""
    found = source.plans().find(
        source.name(bucket), source.made(bucket), checked=source.accept is not None
    )
    if isinstance(found, str):
        return found
    try:
        return _load(source, bucket, found)
    except EngineError as error:
        return str(error)


def _built(source: Source, bucket: Bucket) -> Plan:
    kept = source.plans()
    start = time.monotonic()
    source.pool.device.use()
    source.pool.trim()
    content, timings = build(source.module, source.graph, bucket, kept.timings())
    seconds = time.monotonic() - start
    _write(lambda: kept.keep_timings(timings))
    plan = _load(source, bucket, content)
    layers = plan.layers()
    LOG.info("tensorrt: built in %.0f s: %s", seconds, layers)
    if source.accept is not None:
        source.accept(plan)
    manifest = PlanManifest(
        made=source.made(bucket),
        sha256=plan.sha256,
        checked=source.accept is not None,
        seconds=seconds,
        layers=layers,
    )
    _write(lambda: kept.keep(source.name(bucket), content, manifest))
    return plan


def _write(write: Callable[[], None]) -> None:
    """What cannot be written is used all the same."""
    try:
        write()
    except OutputError as error:
        LOG.warning("tensorrt: the plan is used, but not all of it kept: %s", str(error))


def _load(source: Source, bucket: Bucket, content: bytes) -> Plan:
    return Plan(source.module, source.pool, content, bucket, source.precision)
