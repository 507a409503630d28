"""From a checkpoint to a bundle that has passed its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from clsspec_export.architectures import describe, specialized_name
from clsspec_export.audit import audit, audit_variant
from clsspec_export.checkpoints.checkpoint import Checkpoint, Origin
from clsspec_export.features import features
from clsspec_export.graphs import write_graphs
from clsspec_export.heads.graph import add_head
from clsspec_export.heads.linear import LinearHead
from clsspec_export.lower import lower_precisions
from clsspec_export.measuring import measure_all
from clsspec_export.model_card import CARD, model_card
from clsspec_export.reference import Reference, shrink
from clsspec_export.samples import check_inputs
from clsspec_export.specialize import (
    PLAIN,
    paper_specialization,
    specialization_of,
    specialize,
)
from clsspec_serve.bundle import (
    GRAPH,
    REFERENCE,
    Bundle,
    describe_folder,
    new_bundle,
    write_manifest,
)
from clsspec_serve.choices import Precision
from clsspec_serve.engines.select import installed_engines, package_version
from clsspec_serve.errors import UsageError
from clsspec_serve.layers import Layer
from clsspec_serve.manifest import Architecture, Manifest, Provenance
from clsspec_serve.parity import save_samples

LICENCE = "LICENSE"

Report = Callable[[str], None]


def lift(checkpoint: Checkpoint, *, plain: bool = False) -> Checkpoint:
    """Give a plain checkpoint the paper's specialized layout; its outputs stay what they are.

    With `plain` it is left as it is, and `UsageError` raised if it has weights of its own for
    [CLS]. A checkpoint whose blocks are specialized already is left as it is, too.
    """
    found = specialization_of(checkpoint.model) or PLAIN
    if plain:
        if found != PLAIN:
            raise UsageError("the checkpoint is specialized; it cannot be exported as plain")
        return checkpoint
    if found.qkv_blocks or found.norms or found.layer_scale:
        return checkpoint
    paper = paper_specialization(len(checkpoint.model.blocks))
    registers = {"registers_with": found.registers_with}
    specialize(checkpoint.model, paper.model_copy(update=registers))
    return checkpoint


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The backbone as its bundle describes it."""
    plain = specialization_of(checkpoint.model) in (None, PLAIN)
    name = checkpoint.architecture if plain else specialized_name(checkpoint.architecture)
    return describe(name, checkpoint.model)


def export_bundle(
    checkpoint: Checkpoint,
    destination: Path,
    origin: Origin,
    *,
    layers: Sequence[Layer] = (),
    heads: Sequence[LinearHead] = (),
    precisions: Sequence[Precision] = (),
    pictures: Sequence[Path] = (),
    replace: bool = False,
    report: Report = lambda message: None,
) -> Manifest:
    """Write a bundle to `destination`, checked before it appears there.

    `layers` are put out beside the last one, and so is what `heads` take. `precisions` below fp32
    get graphs of their own; `pictures` are what int8 is calibrated on.

    Raises `ExportError` saying what differed by how much when the parity or the audit fails,
    `UsageError` for a precision that has no graph, `OutputError` when the folder cannot be written;
    nothing is left behind then.
    """
    precisions = lower_precisions(precisions, pictures)
    architecture = architecture_of(checkpoint)
    inputs = (output for head in heads for output in head.description.inputs)
    outputs = features(architecture, layers, inputs)
    with new_bundle(destination, replace=replace) as folder:
        report("writing the graphs")
        variants = write_graphs(checkpoint, outputs, folder, precisions, pictures)

        report("auditing the products of the graphs")
        audit(folder / GRAPH, architecture)
        for variant in variants:
            audit_variant(folder, variant, architecture)
        for head in heads:
            add_head(head, architecture, folder)

        manifest = Manifest(
            name=destination.name,
            description=checkpoint.description,
            storage=checkpoint.storage,
            architecture=architecture,
            preprocessing=checkpoint.preprocessing,
            position=checkpoint.position,
            outputs=outputs,
            heads=tuple(head.description for head in heads),
            variants=variants,
            provenance=_provenance(checkpoint, origin),
            parity=(),
            files={},
        )
        reference = Reference(checkpoint, outputs, heads)
        samples = []
        for pixels in check_inputs(checkpoint.preprocessing, architecture.patch_size):
            report(f"PyTorch's features at {pixels.shape[2]}x{pixels.shape[3]}")
            samples.append(reference.sample(pixels))
        parity = measure_all(Bundle(folder, manifest), samples, report)
        save_samples(shrink(samples[1:]), folder / REFERENCE)

        manifest = manifest.model_copy(update={"parity": parity})
        (folder / CARD).write_text(model_card(manifest), encoding="utf-8")
        if origin.licence_text is not None:
            (folder / LICENCE).write_text(origin.licence_text, encoding="utf-8")
        manifest = manifest.model_copy(update={"files": describe_folder(folder)})
        write_manifest(folder, manifest)
    return manifest


def _provenance(checkpoint: Checkpoint, origin: Origin) -> Provenance:
    versions = {name: version(name) for name in ("clsspec-serve", "torch", "timm", "onnxscript")}
    engines = {name: package_version(name) for name in installed_engines()}
    # None for a runtime that another distribution provides.
    versions |= {name: found for name, found in engines.items() if found is not None}
    return Provenance(
        source=origin.source,
        format=checkpoint.format,
        sha256=origin.sha256,
        licence=origin.licence,
        versions=versions,
    )
