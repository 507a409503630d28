"""A bundle put on an engine, and checked there where less than fp32 is computed."""

from __future__ import annotations

import logging
from pathlib import Path

from clsspec_serve.bundle import REFERENCE, Bundle
from clsspec_serve.choices import EngineChoice, Precision
from clsspec_serve.engines.gpus import gpu_at
from clsspec_serve.engines.protocol import Engine
from clsspec_serve.engines.select import choose_engine, load_engine
from clsspec_serve.errors import EngineError, UsageError
from clsspec_serve.manifest import OF_FP32
from clsspec_serve.models import find_bundle
from clsspec_serve.parity import reference_samples, run_sample
from clsspec_serve.predictor import Model

LOG = logging.getLogger("clsspec.engine")


def load(
    model: str | Path | None = None,
    *,
    engine: EngineChoice = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    device: int | None = None,
) -> Model:
    """Open a bundle on an engine: a folder, `hf:owner/name[@revision]`, or the embedded one.

    `device`: the index of the GPU, the first one unless given. Raises `UsageError`, `BundleError`,
    `SourceError` or `EngineError`.
    """
    bundle = find_bundle(model)
    return start(bundle, engine=engine, precision=precision, threads=threads, device=device)


def start(
    bundle: Bundle,
    *,
    engine: EngineChoice = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    shared: bool = False,
    device: int | None = None,
) -> Model:
    """`build` an open bundle; below fp32 it is compared with the PyTorch features that it carries.

    A runtime's kernels for less than fp32 differ from machine to machine, and some are wrong.
    Raises `EngineError` naming the first output that is beyond the precision's tolerance.
    """
    model = build(
        bundle, engine=engine, precision=precision, threads=threads, shared=shared, device=device
    )
    if precision != "fp32":
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
) -> Model:
    """Load an open bundle's backbone on an engine, and its heads as they are first asked for.

    `shared`: see `load_engine`. `device`: as `load`; with it `auto` is `cuda`. A head has only a
    graph in fp32, and is run in what the engine makes of that.
    """
    wanted: EngineChoice = "cuda" if engine == "auto" and device is not None else engine
    chosen = choose_engine(wanted, precision)
    if device is not None and chosen != "cuda":
        raise UsageError(f"device {device}: {chosen} runs on the CPU; cuda runs on GPUs")
    place = gpu_at(device or 0) if chosen == "cuda" else None

    def on_engine(graph: Path, precision: Precision) -> Engine:
        return load_engine(
            graph,
            engine=chosen,
            precision=precision,
            threads=threads,
            shared=shared,
            device=device or 0,
        )

    backbone = on_engine(bundle.graph_for(chosen, precision), precision)
    of_heads: Precision = precision if precision in OF_FP32[chosen] else "fp32"
    return Model(bundle, backbone, lambda task: on_engine(bundle.head(task), of_heads), place)


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
                    f"{difference.describe(precision)}; --precision fp32 is"
                )
