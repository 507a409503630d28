"""A bundle put on an engine, and checked there where less than fp32 is computed."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from clsspec_serve.acceptance import Acceptance
from clsspec_serve.bundle import REFERENCE, Bundle
from clsspec_serve.choices import EngineChoice, HeadTask, Precision, PrecisionChoice
from clsspec_serve.engines.gpus import ON_GPUS, gpu_at
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.engines.select import choose_engine, load_engine
from clsspec_serve.engines.tensorrt.buckets import LARGEST, SIZES
from clsspec_serve.errors import EngineError, UsageError
from clsspec_serve.manifest import OF_FP32
from clsspec_serve.models import find_bundle
from clsspec_serve.parity import reference_samples, run_sample
from clsspec_serve.predictor import Model

if TYPE_CHECKING:
    from clsspec_serve.engines.tensorrt.making import Accept

LOG = logging.getLogger("clsspec.engine")


def load(
    model: str | Path | None = None,
    *,
    engine: EngineChoice = "auto",
    precision: PrecisionChoice = "fp32",
    threads: int | None = None,
    device: int | None = None,
) -> Model:
    """Open a bundle on an engine: a folder, `hf:owner/name[@revision]`, or the embedded one.

    `precision`: with `auto` the fastest that is accurate here, by measuring for some seconds.
    `device`: the index of the GPU, the first one unless given. Raises `UsageError`, `BundleError`,
    `SourceError` or `EngineError`.
    """
    bundle = find_bundle(model)
    if precision == "auto":
        from clsspec_serve.fastest import fastest  # which starts models itself

        engine, precision = fastest(bundle, engine, threads=threads, device=device)
    return start(bundle, engine=engine, precision=precision, threads=threads, device=device)


class Loading(TypedDict, total=False):
    """How a bundle is put on an engine; see `build`."""

    engine: EngineChoice
    precision: Precision
    threads: int | None
    shared: bool
    device: int | None
    batch_size: int
    sizes: int


def start(bundle: Bundle, **loading: Unpack[Loading]) -> Model:
    """`build` an open bundle; below fp32 it is compared with the PyTorch features that it carries.

    A runtime's kernels for less than fp32 differ from machine to machine, and some are wrong.
    Plans of `tensorrt` are compared when they are built, in every precision, and not here, where
    each size would take one. Raises `EngineError` naming the first output that is beyond the
    precision's tolerance.
    """
    model = build(bundle, **loading)
    precision = model.engine.precision
    if precision != "fp32" and model.engine.name != "tensorrt":
        _require_parity(model, precision)
    return model


def build(
    bundle: Bundle,
    *,
    engine: EngineChoice = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    shared: bool = False,
    device: int | None = None,
    batch_size: int = LARGEST,
    sizes: int = SIZES,
) -> Model:
    """Load an open bundle's backbone on an engine, and its heads as they are first asked for.

    `shared`, `batch_size`, `sizes`: see `load_engine`. `device`: as `load`; with it `auto` is
    `cuda`. A head has only a graph in fp32, and is run in what the engine makes of that.
    """
    wanted: EngineChoice = "cuda" if engine == "auto" and device is not None else engine
    chosen = choose_engine(wanted, precision)
    if device is not None and chosen not in ON_GPUS:
        raise UsageError(
            f"device {device}: {chosen} runs on the CPU; {' and '.join(ON_GPUS)} run on GPUs"
        )
    place = gpu_at(device or 0) if chosen in ON_GPUS else None
    of_heads: Precision = precision if precision in OF_FP32[chosen] else "fp32"
    acceptance = Acceptance(bundle, threads) if chosen == "tensorrt" else None

    def on_engine(graph: Path, precision: Precision, accept: Accept | None) -> Engine:
        return load_engine(
            graph,
            engine=chosen,
            precision=precision,
            threads=threads,
            shared=shared,
            device=device or 0,
            batch_size=batch_size,
            sizes=sizes,
            accept=accept,
        )

    def load_head(task: HeadTask) -> Engine:
        accept = None if acceptance is None else partial(acceptance.accept_head, task)
        return on_engine(bundle.head(task), of_heads, accept)

    accept = None if acceptance is None else acceptance.accept
    backbone = on_engine(bundle.graph_for(chosen, precision), precision, accept)
    return Model(bundle, backbone, load_head, place)


def _require_parity(model: Model, precision: Precision) -> None:
    engine = model.engine.name
    if REFERENCE not in model.manifest.files:
        LOG.warning("%s %s is not checked: the bundle has no %s", engine, precision, REFERENCE)
        return
    for sample in reference_samples(model.bundle):
        for difference in run_sample(model, sample):
            if not difference.within(precision):
                raise EngineError(
                    f"{engine} is not accurate in {precision} on this machine: "
                    f"{difference.describe(precision)}; use --precision fp32"
                )
