"""How far a bundle's engines are from PyTorch, measured before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.engines.select import installed_engines, load_engine, running_engines
from clsspec_serve.errors import ExportError
from clsspec_serve.loading import build
from clsspec_serve.manifest import OF_FP32, Parity, Variant
from clsspec_serve.parity import Difference, Sample, run_sample
from clsspec_serve.predictor import Model

CPU_KERNELS: dict[Precision, EngineName] = {"fp16": "onnxruntime", "bf16": "openvino"}
"""What computes a graph for GPUs on a CPU, if slowly and not quite as they do."""


def measure_all(
    bundle: Bundle, samples: Sequence[Sample], report: Callable[[str], None]
) -> tuple[Parity, ...]:
    """The parity of each engine that runs here, in fp32 and where the bundle has it a graph.

    Raises `ExportError` naming the first output and size that is beyond the tolerance.
    """
    found = []
    for engine in running_engines():
        own = (p for p in bundle.manifest.precisions(engine) if p not in OF_FP32[engine])
        for precision in ("fp32", *own):
            report(f"parity of {engine} in {precision}")
            found.append(measure(bundle, engine, samples, precision))
    for variant in bundle.manifest.variants:
        (precision, *_) = variant.precisions
        if precision in CPU_KERNELS:
            report(_checked_on_the_cpu(bundle, variant, precision, samples))
    return tuple(found)


def measure(
    bundle: Bundle,
    engine: EngineName,
    samples: Sequence[Sample],
    precision: Precision = "fp32",
) -> Parity:
    """The worst difference of [CLS], of patches and of each head over all samples.

    Raises `ExportError` naming the first output and size that is beyond the tolerance.
    """
    model = build(bundle, engine=engine, precision=precision)
    kinds = {output.name: output.kind for output in bundle.manifest.outputs}
    tasks = [head.task for head in bundle.manifest.heads]
    worst: dict[str, float] = dict.fromkeys(("cls", "patches", *tasks), 0.0)
    agreements, cosines = [], []
    for sample in samples:
        for difference in run_sample(model, sample):
            _require(difference, engine, precision)
            kind = kinds.get(difference.output, difference.output)
            if difference.output in kinds:
                cosines.append(difference.cosine)
            worst[kind] = max(worst[kind], difference.relative)
            if kind == "segment":
                agreements.append(difference.agreement)
    return Parity(
        engine=engine,
        precision=precision,
        sizes=tuple(sample.size for sample in samples),
        cls=worst["cls"],
        patches=worst["patches"],
        heads={task: worst[task] for task in tasks},
        cosine=min(cosines),
        mask_agreement=min(agreements, default=None),
    )


def _require(difference: Difference, engine: str, precision: Precision) -> None:
    if not difference.within(precision):
        raise ExportError(
            f"{engine} in {precision} differs from PyTorch; {difference.describe(precision)}"
        )


def _checked_on_the_cpu(
    bundle: Bundle, variant: Variant, precision: Precision, samples: Sequence[Sample]
) -> str:
    """Of a graph for GPUs what its numbers are; a GPU's own kernels are compared when it starts."""
    engine = CPU_KERNELS[precision]
    if engine not in installed_engines():
        return f"{variant.graph}: not computed here, as {engine} is not installed"
    graph = load_engine(bundle.path / variant.graph, engine=engine)
    model = Model(bundle, graph, lambda task: graph)
    names = [output.name for output in bundle.manifest.outputs]
    cosines = []
    for sample in samples:
        features = replace(sample, outputs={name: sample.outputs[name] for name in names})
        for difference in run_sample(model, features):
            _require(difference, engine, precision)
            cosines.append(difference.cosine)
    return f"{variant.graph}: computed on the CPU, lowest cosine with PyTorch {min(cosines):.6f}"
