"""Heads added to a bundle that is there already: a new bundle, checked before it appears."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from clsspec_export.heads.graph import add_head
from clsspec_export.heads.linear import LinearHead, checked
from clsspec_export.heads.modules import module
from clsspec_export.model_card import CARD, model_card
from clsspec_export.reference import shrink
from clsspec_export.samples import check_inputs
from clsspec_serve.bundle import (
    HEADS,
    MANIFEST,
    REFERENCE,
    Bundle,
    describe_folder,
    new_bundle,
    write_manifest,
)
from clsspec_serve.choices import EngineName, HeadTask
from clsspec_serve.engines.select import running_engines
from clsspec_serve.errors import ExportError, UsageError
from clsspec_serve.layers import Layer, select_outputs
from clsspec_serve.loading import start
from clsspec_serve.manifest import SCHEMA_VERSION, Manifest, Parity
from clsspec_serve.parity import (
    Difference,
    Sample,
    compare,
    reference_samples,
    run_sample,
    save_samples,
)
from clsspec_serve.predictor import Model

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Measured:
    """The worst relative difference by task, and the smallest share of equal classes."""

    heads: dict[HeadTask, float]
    agreement: float | None


def attach(
    bundle: Bundle,
    heads: Sequence[LinearHead],
    destination: Path,
    *,
    replace_existing: bool = False,
    report: Report = lambda message: None,
) -> Manifest:
    """Write `destination`: the bundle with these heads, in place of those of the same tasks.

    Files are copied, not linked, so that the two bundles stay independent. Every installed engine
    runs each head's graph on the features that it computes itself, of photographs at three sizes;
    PyTorch's answer to the same features is the yardstick. Where the bundle's own samples hold the
    PyTorch features that a head takes, PyTorch's answer to those joins them, for `clsspec verify`.

    Raises `UsageError` for a head that takes what the bundle does not put out, `CheckpointError`
    for one of another width, `ExportError` where an engine differs, `OutputError`; nothing is left
    behind then.
    """
    architecture = bundle.manifest.architecture
    new = [_fitted(bundle.manifest, head) for head in heads]
    tasks = [head.description.task for head in new]
    if len(set(tasks)) < len(tasks) or not tasks:
        raise UsageError(f"heads for {', '.join(tasks) or 'nothing'}; accepted is one for a task")
    kept = [head for head in bundle.manifest.heads if head.task not in tasks]
    with new_bundle(destination, replace=replace_existing) as folder:
        report("copying the bundle")
        _copy(bundle, folder, tasks)
        for head in new:
            report(f"writing the head for {head.description.task}")
            add_head(head, architecture, folder)
        manifest = bundle.manifest.model_copy(
            update={
                "schema_version": SCHEMA_VERSION,
                "name": destination.name,
                "heads": (*kept, *(head.description for head in new)),
            }
        )
        written = Bundle(folder, manifest)
        samples = []
        if REFERENCE in manifest.files:
            samples = [_answered(sample, new) for sample in reference_samples(written)]
            save_samples(shrink(samples), folder / REFERENCE)
        measured: dict[EngineName, _Measured] = {}
        for engine in running_engines():
            report(f"parity of {engine}")
            measured[engine] = _measure(start(written, engine=engine), engine, new, samples)
        parity = tuple(_joined(each, measured, tasks) for each in manifest.parity)
        manifest = manifest.model_copy(update={"parity": parity})
        (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
        manifest = manifest.model_copy(update={"files": describe_folder(folder)})
        write_manifest(folder, Manifest.model_validate(manifest.model_dump()))
    return manifest


def _fitted(manifest: Manifest, head: LinearHead) -> LinearHead:
    """The head with its inputs by the bundle's names. Raises as `attach` says."""
    inputs = tuple(
        select_outputs(manifest.outputs, [each.kind], [Layer(each.layer, each.norm)])[0]
        for each in head.description.inputs
    )
    description = head.description.model_copy(update={"inputs": inputs})
    own = replace(head, description=description)
    return checked(own, manifest.architecture, head.description.source.name)


def _copy(bundle: Bundle, folder: Path, tasks: Sequence[HeadTask]) -> None:
    for name in bundle.manifest.files:
        if name not in (MANIFEST, *(f"{HEADS}/{task}.onnx" for task in tasks)):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / name, target)


@torch.inference_mode()
def _answered(sample: Sample, heads: Sequence[LinearHead]) -> Sample:
    """A sample of PyTorch features with PyTorch's answers of the heads whose inputs it holds."""
    tasks = [head.description.task for head in heads]
    outputs = {name: value for name, value in sample.outputs.items() if name not in tasks}
    for head in heads:
        names = [each.name for each in head.description.inputs]
        if all(name in outputs for name in names):
            inputs = [torch.from_numpy(outputs[name]) for name in names]
            outputs[head.description.task] = module(head).eval()(*inputs).numpy()
    return Sample(sample.pixels, outputs)


def _measure(
    model: Model, engine: EngineName, heads: Sequence[LinearHead], samples: Sequence[Sample]
) -> _Measured:
    """The heads' worst differences; raises `ExportError` beyond the tolerance."""
    manifest = model.manifest
    found: list[Difference] = []
    for pixels in check_inputs(manifest.preprocessing, manifest.architecture.patch_size):
        size = (pixels.shape[2], pixels.shape[3])
        for head in heads:
            names = [each.name for each in head.description.inputs]
            outputs = model.infer(pixels, names, [head.description.task])
            given = Sample(pixels, {name: outputs[name] for name in names})
            task = head.description.task
            reference = _answered(given, [head]).outputs[task]
            found.append(compare(task, size, outputs[task], reference))
    for sample in samples:
        found += run_sample(model, sample)
    tasks = [head.description.task for head in heads]
    for difference in found:
        if not difference.within("fp32"):
            raise ExportError(f"{engine} differs from PyTorch; {difference.describe('fp32')}")
    agreements = (each.agreement for each in found if each.output == "segment")
    return _Measured(
        {task: max(each.relative for each in found if each.output == task) for task in tasks},
        min(agreements, default=None),
    )


def _joined(
    own: Parity, measured: Mapping[EngineName, _Measured], tasks: Sequence[HeadTask]
) -> Parity:
    """What the bundle says of an engine, with the new heads where they were measured here."""
    heads = {task: value for task, value in own.heads.items() if task not in tasks}
    agreement = None if "segment" in tasks else own.mask_agreement
    new = next((found for engine, found in measured.items() if engine == own.engine), None)
    if new is not None and own.precision == "fp32":
        heads |= new.heads
        agreement = new.agreement if "segment" in tasks else agreement
    return own.model_copy(update={"heads": heads, "mask_agreement": agreement})
