"""From a checkpoint to a bundle that has passed its checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from clsspec_export.architectures import describe, specialized_name
from clsspec_export.audit import audit
from clsspec_export.checkpoints.checkpoint import Checkpoint, Origin
from clsspec_export.model_card import model_card
from clsspec_export.onnx_graph import export_graph, fold_pixels
from clsspec_export.reference import Reference
from clsspec_export.samples import check_inputs
from clsspec_export.specialize import (
    PLAIN,
    paper_specialization,
    specialization_of,
    specialize,
)
from clsspec_export.streams import exportable
from clsspec_serve.bundle import (
    GRAPH,
    POSITION,
    REFERENCE,
    Bundle,
    describe_folder,
    new_bundle,
    write_manifest,
)
from clsspec_serve.choices import EngineName
from clsspec_serve.engines.select import installed_engines, load_engine
from clsspec_serve.errors import ExportError, UsageError
from clsspec_serve.layers import Layer
from clsspec_serve.manifest import Architecture, Manifest, Output, Parity, Provenance
from clsspec_serve.parity import Difference, Sample, run_sample, save_samples

REFERENCE_BYTES = 1_900_000
"""What the reference outputs of a bundle may take before the file's own overhead."""

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


def export_bundle(
    checkpoint: Checkpoint,
    destination: Path,
    origin: Origin,
    *,
    layers: Sequence[Layer] = (),
    replace: bool = False,
    report: Report = lambda message: None,
) -> Manifest:
    """Write a bundle to `destination`, checked before it appears there.

    Raises `ExportError` saying what differed by how much when the parity or the audit fails,
    `OutputError` when the folder cannot be written; nothing is left behind then.
    """
    specialization = specialization_of(checkpoint.model)
    plain = specialization in (None, PLAIN)
    name = checkpoint.architecture if plain else specialized_name(checkpoint.architecture)
    architecture = describe(name, checkpoint.model)
    outputs = _outputs(architecture, layers)
    with new_bundle(destination, replace=replace) as folder:
        report("writing the graph")
        proj = fold_pixels(checkpoint.model.patch_embed.proj, checkpoint.preprocessing)
        export_graph(exportable(checkpoint.model, outputs, proj), folder / GRAPH)
        np.save(folder / POSITION, checkpoint.table.numpy(), allow_pickle=False)

        report("auditing the products of the graph")
        audit(folder / GRAPH, architecture)

        manifest = Manifest(
            name=destination.name,
            architecture=architecture,
            preprocessing=checkpoint.preprocessing,
            position=checkpoint.position,
            outputs=outputs,
            provenance=_provenance(checkpoint, origin),
            parity=(),
            files={},
        )
        reference = Reference(checkpoint, outputs)
        samples = []
        for pixels in check_inputs(checkpoint.preprocessing, architecture.patch_size):
            report(f"PyTorch's features at {pixels.shape[2]}x{pixels.shape[3]}")
            samples.append(reference.sample(pixels))
        parity = []
        for engine in installed_engines():
            report(f"parity of {engine}")
            parity.append(measure(Bundle(folder, manifest), engine, samples))
        save_samples(_shrink(samples[1:]), folder / REFERENCE)

        manifest = manifest.model_copy(update={"parity": tuple(parity)})
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        if origin.licence_text is not None:
            (folder / LICENCE).write_text(origin.licence_text, encoding="utf-8")
        manifest = manifest.model_copy(update={"files": describe_folder(folder)})
        write_manifest(folder, manifest)
    return manifest


def measure(bundle: Bundle, engine: EngineName, samples: Sequence[Sample]) -> Parity:
    """The worst difference of [CLS] and of patches over all samples, fp32.

    Raises `ExportError` naming the first output and size that is beyond the tolerance.
    """
    loaded = load_engine(bundle.graph, engine=engine)
    kinds = {output.name: output.kind for output in bundle.manifest.outputs}
    worst = {"cls": 0.0, "patches": 0.0}
    for sample in samples:
        for difference in run_sample(bundle, loaded, sample):
            _require(difference, engine)
            kind = kinds[difference.output]
            worst[kind] = max(worst[kind], difference.relative)
    return Parity(
        engine=engine,
        precision="fp32",
        sizes=tuple(sample.size for sample in samples),
        cls=worst["cls"],
        patches=worst["patches"],
    )


def _require(difference: Difference, engine: str) -> None:
    if not difference.within("fp32"):
        raise ExportError(f"{engine} differs from PyTorch; {difference.describe('fp32')}")


def _outputs(architecture: Architecture, layers: Sequence[Layer]) -> tuple[Output, ...]:
    last = architecture.depth - 1
    normed = architecture.final_norm
    outputs = [
        Output(name="cls", kind="cls", layer=last, norm=normed),
        Output(name="patches", kind="patches", layer=last, norm=normed),
    ]
    for layer in layers:
        if not 0 <= layer.index <= last:
            raise UsageError(f"layer {layer.index} does not exist; accepted are 0 to {last}")
        if layer.norm and not normed:
            raise UsageError("the model has no final norm; ask for raw layers, such as 5:raw")
        if layer == Layer(last, normed):
            continue
        suffix = f"{layer.index}" if layer.norm else f"{layer.index}_raw"
        outputs += [
            Output(name=f"cls_{suffix}", kind="cls", layer=layer.index, norm=layer.norm),
            Output(name=f"patches_{suffix}", kind="patches", layer=layer.index, norm=layer.norm),
        ]
    return tuple(outputs)


def _shrink(samples: Sequence[Sample]) -> list[Sample]:
    """One picture of each sample, with as many outputs, the default ones first, as fit."""
    left = REFERENCE_BYTES
    kept: list[dict[str, np.ndarray]] = [{} for _ in samples]
    order = sorted((index, name) for index, sample in enumerate(samples) for name in sample.outputs)
    for index, name in sorted(order, key=lambda item: item[1] not in ("cls", "patches")):
        value = samples[index].outputs[name][:1]
        if value.nbytes <= left:
            left -= value.nbytes
            kept[index][name] = value
    return [
        Sample(sample.pixels[:1], outputs) for sample, outputs in zip(samples, kept, strict=True)
    ]


def _provenance(checkpoint: Checkpoint, origin: Origin) -> Provenance:
    packages = ("clsspec-serve", "torch", "timm", "onnxscript", *installed_engines())
    return Provenance(
        source=origin.source,
        format=checkpoint.format,
        sha256=origin.sha256,
        licence=origin.licence,
        versions={name: found for name in packages if (found := _version(name))},
    )


def _version(package: str) -> str | None:
    """None for a runtime that another distribution provides, such as onnxruntime-gpu."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
