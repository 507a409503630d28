"""`clsspec export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from clsspec_cli import options
from clsspec_serve.choices import HeadTask, Precision
from clsspec_serve.choices import Storage as StorageName
from clsspec_serve.errors import UsageError

if TYPE_CHECKING:
    from clsspec_serve.layers import Layer

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="The bundle's folder; not with --triton of a bundle that there is.",
        show_default=False,
    ),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="5,11:raw",
        help="Further blocks to put out, counted from 0; raw leaves the final norm out.",
        show_default=False,
    ),
]
Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="TASK=FILE",
        help="A linear head for segment, depth or classify: a file, or a name from "
        "`clsspec models`. Repeatable.",
        show_default=False,
    ),
]
HeadLayers = Annotated[
    str | None,
    typer.Option(
        metavar="8,9,10,11:raw",
        help="The blocks that the heads take, where their files do not say.",
        show_default=False,
    ),
]
MaxDepth = Annotated[
    float | None,
    typer.Option(
        metavar="METRES",
        help="Where a depth head's range ends, if its file's name does not say nyu or kitti.",
        show_default=False,
    ),
]
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Keep a plain checkpoint plain instead of lifting it."),
]
Storage = Annotated[
    StorageName,
    typer.Option(
        help="Of the weights on disk. fp16 rounds the backbone's matrices and halves the bundle; "
        "computing stays fp32."
    ),
]
Precisions = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="int8,bf16,fp16",
        help="Graphs for less than fp32, beside the one in fp32: int8 for CPUs, bf16 and fp16 for "
        "GPUs. OpenVINO's bf16 needs none.",
        show_default=False,
    ),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Pictures like those to come, on which int8 finds its ranges; up to 64 are looked at.",
        show_default=False,
    ),
]
Triton = Annotated[
    Path | None,
    typer.Option(
        metavar="REPOSITORY",
        help="Write models for Triton Inference Server, too: to a new folder, or beside the models "
        "of one that exists. CHECKPOINT may then be a bundle's folder.",
        show_default=False,
    ),
]
TritonSize = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Of the pictures that Triton's models take, in pixels; the model's own unless given.",
        show_default=False,
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a bundle, or Triton's models, that are there.")
]


def export(
    checkpoint: options.Checkpoint,
    out: Out = None,
    arch: options.Arch = None,
    rules: options.Rules = None,
    layers: Layers = "",
    head: Heads = None,
    head_layers: HeadLayers = None,
    max_depth: MaxDepth = None,
    plain: Plain = False,
    storage: Storage = "fp32",
    precision: Precisions = "",
    calibrate: Calibrate = None,
    triton: Triton = None,
    triton_size: TritonSize = None,
    force: Force = False,
) -> None:
    """Turn a checkpoint into a bundle: an ONNX graph, its weights and one manifest.

    A plain checkpoint is lifted into the specialized layout, which leaves its outputs as they are.
    The graph is compared with PyTorch and its matrix products are counted before it is kept.
    """
    options.require_export_extra()
    from clsspec_serve.bundle import MANIFEST

    size = _parse_size(triton_size, triton)
    if triton is not None and os.path.isfile(Path(checkpoint) / MANIFEST):
        others = (out, arch, rules, head, head_layers, max_depth, layers, plain, storage != "fp32")
        if any((*others, precision, calibrate)):
            raise UsageError(
                f"{checkpoint} is a bundle, which --triton takes as it is; accepted beside it are "
                "--triton-size and --force"
            )
        _write_repository(Path(checkpoint), triton, size, force)
        return
    from clsspec_export.calibration import calibration_pictures
    from clsspec_export.checkpoints.source import load_checkpoint
    from clsspec_export.export import architecture_of, export_bundle, lift
    from clsspec_export.fetch import resolve_head
    from clsspec_export.heads.read import read_head
    from clsspec_export.lower import require_pictures
    from clsspec_export.storage import round_to_fp16
    from clsspec_export.triton.plan import model_names
    from clsspec_export.triton.repository import require_room
    from clsspec_export.triton.size import fixed_size
    from clsspec_serve.layers import parse_layers

    if out is None:
        raise UsageError("--out is missing: the folder of the bundle to write")
    if os.path.exists(out) and not force:
        raise UsageError(f"{out} exists already; --force replaces it")
    chosen = parse_layers(layers)
    taken = None if head_layers is None else parse_layers(head_layers)
    asked = _parse_heads(head or [], taken, max_depth)
    pictures = [] if calibrate is None else calibration_pictures(calibrate)
    precisions = _parse_precisions(precision)
    require_pictures(precisions, pictures)
    if triton is not None:
        require_room(triton, model_names(out.name, [*asked]), out, replace=force)
    files = {
        task: resolve_head(reference, task, backbone=checkpoint)
        for task, reference in asked.items()
    }
    _report(f"reading {checkpoint}")
    loaded, origin = load_checkpoint(checkpoint, architecture=arch, rules=rules)
    lifted = lift(loaded, plain=plain)
    if storage == "fp16":
        lifted = round_to_fp16(lifted)
    if triton is not None:
        fixed_size(lifted.preprocessing, architecture_of(lifted).patch_size, size)
    heads = []
    for task, found in files.items():
        _report(f"reading {found.reference}")
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
        report=_report,
    )
    for parity in manifest.parity:
        _report(
            f"{parity.engine} {parity.precision}: difference to PyTorch, of the largest value: "
            f"{parity.summary()}"
        )
    if origin.licence and origin.licence_text is None and "dinov3" in origin.licence:
        _report(
            "the DINOv3 licence asks for a copy of it beside the weights: add one to the bundle"
        )
    _report(f"{out}: {manifest.architecture.name}, {manifest.architecture.parameters:,} parameters")
    if triton is not None:
        _write_repository(out, triton, size, force)


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _parse_precisions(text: str) -> list[Precision]:
    """Each once, in the order given; raises `UsageError` for words that name none."""
    names = [part.strip() for part in text.split(",")] if text else []
    known = {name: name for name in get_args(Precision)}
    for name in names:
        if name not in known:
            raise UsageError(f"--precision {text}: {name!r} is none of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _parse_size(text: str | None, triton: Path | None) -> tuple[int, int] | None:
    """(H, W) of the pictures for Triton; raises `UsageError`."""
    from clsspec_serve.transform import parse_size

    if text is not None and triton is None:
        raise UsageError("--triton-size is for --triton")
    return None if text is None else parse_size(text)


def _write_repository(
    bundle: Path, repository: Path, size: tuple[int, int] | None, force: bool
) -> None:
    from clsspec_export.triton.repository import write_repository
    from clsspec_serve.bundle import open_bundle

    found = write_repository(
        open_bundle(bundle), repository, size=size, replace=force, report=_report
    )
    _report(f"{repository}: {', '.join(model.name for model in found.models)}")


def _parse_heads(
    texts: list[str], layers: Sequence[Layer] | None, max_depth: float | None
) -> dict[HeadTask, str]:
    """The heads by their tasks; raises `UsageError` for anything but `TASK=FILE`, each once."""
    heads: dict[HeadTask, str] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        task = next((task for task in get_args(HeadTask) if task == name), None)
        if task is None or not equals or not file:
            raise UsageError(
                f"--head {text}; accepted is TASK=FILE with {', '.join(get_args(HeadTask))}"
            )
        if task in heads:
            raise UsageError(f"--head {text}; there is a head for {task} already: {heads[task]}")
        heads[task] = file
    if layers is not None and not (heads and layers):
        raise UsageError("--head-layers needs a --head, and names one layer or more")
    if max_depth is not None and ("depth" not in heads or not 0.001 < max_depth < math.inf):
        raise UsageError("--max-depth is for --head depth=FILE, and more than 0.001 m")
    return heads
