"""`clsspec export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import os
from pathlib import Path

from clsspec_cli import export_options as given
from clsspec_cli import options
from clsspec_cli.deployment import deployment, report
from clsspec_cli.export_options import parse_heads
from clsspec_serve.errors import UsageError


def export(
    checkpoint: options.Checkpoint,
    out: given.Out = None,
    arch: options.Arch = None,
    rules: options.Rules = None,
    layers: given.Layers = "",
    head: given.Heads = None,
    head_layers: given.HeadLayers = None,
    max_depth: given.MaxDepth = None,
    plain: given.Plain = False,
    storage: given.Storage = "fp32",
    precision: given.Precisions = "",
    calibrate: given.Calibrate = None,
    triton: given.Triton = None,
    triton_size: given.TritonSize = None,
    tensorrt: given.TensorRt = False,
    force: given.Force = False,
) -> None:
    """Turn a checkpoint into a bundle: an ONNX graph, its weights and one manifest.

    A plain checkpoint is lifted into the specialized layout, which leaves its outputs as they are.
    The graph is compared with PyTorch and its matrix products are counted before it is kept.
    """
    from clsspec_serve.bundle import MANIFEST

    wanted = deployment(triton, triton_size, tensorrt, force)
    if wanted and os.path.isfile(Path(checkpoint) / MANIFEST):
        others = (out, arch, rules, head, head_layers, max_depth, layers, plain, storage != "fp32")
        if any((*others, precision, calibrate)):
            raise UsageError(
                f"{checkpoint} is a bundle, which --triton and --tensorrt take as it is; accepted "
                "beside them are --triton-size and --force"
            )
        if triton is not None:
            options.require_export_extra()
        wanted.make(Path(checkpoint))
        return
    options.require_export_extra()
    from clsspec_export.calibration import calibration_pictures
    from clsspec_export.checkpoints.source import load_checkpoint
    from clsspec_export.export import architecture_of, export_bundle, lift
    from clsspec_export.fetch import resolve_head
    from clsspec_export.heads.read import read_head
    from clsspec_export.lower import lower_precisions
    from clsspec_export.storage import round_to_fp16
    from clsspec_export.triton.size import fixed_size
    from clsspec_serve.layers import parse_layers

    if out is None:
        raise UsageError("--out is missing: the folder of the bundle to write")
    if os.path.exists(out) and not force:
        raise UsageError(f"{out} exists already; --force replaces it")
    chosen = parse_layers(layers)
    taken = None if head_layers is None else parse_layers(head_layers)
    asked = parse_heads(head or [], taken, max_depth)
    pictures = [] if calibrate is None else calibration_pictures(calibrate)
    named = [part.strip() for part in precision.split(",")] if precision else []
    precisions = lower_precisions(named, pictures)
    wanted.require(out, [*asked], precisions)
    files = {
        task: resolve_head(reference, task, backbone=checkpoint)
        for task, reference in asked.items()
    }
    report(f"reading {checkpoint}")
    loaded, origin = load_checkpoint(checkpoint, architecture=arch, rules=rules)
    lifted = lift(loaded, plain=plain)
    if storage == "fp16":
        lifted = round_to_fp16(lifted)
    if triton is not None:
        fixed_size(lifted.preprocessing, architecture_of(lifted).patch_size, wanted.size)
    heads = []
    for task, found in files.items():
        report(f"reading {found.reference}")
        heads.append(
            read_head(
                task,
                found.path,
                architecture_of(lifted),
                lifted.preprocessing,
                maximum=max_depth,
                layers=taken,
                licence=found.licence,
            )
        )
    manifest = export_bundle(
        lifted,
        out,
        origin,
        layers=chosen,
        heads=heads,
        precisions=precisions,
        pictures=pictures,
        replace=force,
        report=report,
    )
    for parity in manifest.parity:
        report(
            f"{parity.engine} {parity.precision}: difference to PyTorch, of the largest value: "
            f"{parity.summary()}"
        )
    if origin.licence and origin.licence_text is None and "dinov3" in origin.licence:
        report("the DINOv3 licence asks for a copy of it beside the weights: add one to the bundle")
    report(f"{out}: {manifest.architecture.name}, {manifest.architecture.parameters:,} parameters")
    if wanted:
        wanted.make(out)
