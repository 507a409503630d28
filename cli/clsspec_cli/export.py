"""`clsspec export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from clsspec_cli import options
from clsspec_serve.errors import UsageError

Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A file or folder, hf:owner/name[@revision], timm:NAME, a name from `clsspec models`, "
        "or random:NAME for an architecture with random weights.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder.", show_default=False)]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="The timm architecture of a file that does not say what it is.",
        show_default=False,
    ),
]
Rules = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="TOML rules for a checkpoint with other names.", show_default=False
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
Plain = Annotated[
    bool,
    typer.Option("--plain", help="Keep a plain checkpoint plain instead of lifting it."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")]


def export(
    checkpoint: Checkpoint,
    out: Out,
    arch: Arch = None,
    rules: Rules = None,
    layers: Layers = "",
    plain: Plain = False,
    force: Force = False,
) -> None:
    """Turn a checkpoint into a bundle: an ONNX graph, its weights and one manifest.

    A plain checkpoint is lifted into the specialized layout, which leaves its outputs as they are.
    The graph is compared with PyTorch and its matrix products are counted before it is kept.
    """
    options.require_export_extra()
    from clsspec_export.checkpoints.source import load_checkpoint
    from clsspec_export.export import export_bundle, lift
    from clsspec_serve.layers import parse_layers

    if os.path.exists(out) and not force:
        raise UsageError(f"{out} exists already; --force replaces it")
    chosen = parse_layers(layers)

    def report(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    report(f"reading {checkpoint}")
    loaded, origin = load_checkpoint(checkpoint, architecture=arch, rules=rules)
    manifest = export_bundle(
        lift(loaded, plain=plain), out, origin, layers=chosen, replace=force, report=report
    )
    for parity in manifest.parity:
        report(
            f"{parity.engine} {parity.precision}: largest difference to PyTorch "
            f"[CLS] {parity.cls:.1e}, patches {parity.patches:.1e} of the largest value"
        )
    if origin.licence and origin.licence_text is None and "dinov3" in origin.licence:
        report("the DINOv3 licence asks for a copy of it beside the weights: add one to the bundle")
    report(f"{out}: {manifest.architecture.name}, {manifest.architecture.parameters:,} parameters")
