"""A bundle checked on this machine: every engine against the PyTorch outputs it carries."""

from __future__ import annotations

from dataclasses import dataclass

from clsspec_serve.bundle import REFERENCE, Bundle
from clsspec_serve.choices import EngineName, HeadTask, Precision
from clsspec_serve.engines.select import choose_engine, running_engines, tensorrt_runs
from clsspec_serve.errors import BundleError, EngineError
from clsspec_serve.loading import build
from clsspec_serve.parity import Difference, reference_samples, run_sample


@dataclass(frozen=True)
class EngineReport:
    """One engine at one precision; where it did not run, `reason` says why, without differences."""

    engine: EngineName
    precision: Precision
    differences: tuple[Difference, ...]
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Every output within the precision's tolerance; an engine that cannot run passes not."""
        return bool(self.differences) and all(d.within(self.precision) for d in self.differences)


def uncovered_heads(bundle: Bundle) -> list[HeadTask]:
    """The heads that the bundle's own samples say nothing about: what they take did not fit in."""
    covered = {name for sample in reference_samples(bundle) for name in sample.outputs}
    return [head.task for head in bundle.manifest.heads if head.task not in covered]


def verify_engines(bundle: Bundle) -> list[EngineReport]:
    """Run every engine of this machine on the bundle's own samples.

    At every precision that it has of the bundle; TensorRT builds plans that are lacking.
    Raises `EngineError` when no engine is installed, `BundleError` without samples.
    """
    engines = running_engines()
    if tensorrt_runs():
        engines.append("tensorrt")
    if not engines:
        choose_engine("auto", "fp32")  # which says what to install
    samples = list(reference_samples(bundle))
    if not any(sample.outputs for sample in samples):
        raise BundleError(
            f"{bundle.path}: {REFERENCE} holds no outputs; there is nothing to compare with"
        )
    reports = []
    for name in engines:
        for precision in bundle.manifest.precisions(name):
            try:
                model = build(bundle, engine=name, precision=precision, sizes=len(samples))
                found = [d for sample in samples for d in run_sample(model, sample)]
                reports.append(EngineReport(name, precision, tuple(found)))
            except EngineError as error:
                reports.append(EngineReport(name, precision, (), str(error)))
    return reports
