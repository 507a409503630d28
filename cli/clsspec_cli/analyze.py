"""`clsspec analyze`: how alike [CLS] and patches are inside of every block."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clsspec_cli import options
from clsspec_serve.errors import OutputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TABLE, PLOT = "analysis.csv", "analysis.png"

Out = Annotated[
    Path,
    typer.Option("--out", "-o", help=f"A new folder for {TABLE} and {PLOT}.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an analysis that is there already.")]


def analyze(
    checkpoint: options.Checkpoint,
    images: options.Images,
    out: Out,
    arch: options.Arch = None,
    rules: options.Rules = None,
    size: options.Size = None,
    resize: options.Resize = None,
    background: options.Background = "ffffff",
    max_pixels: options.MaxPixels = 89_478_485,
    as_json: options.Json = False,
    force: Force = False,
) -> None:
    """Measure how alike [CLS] and patches are before and after every layer of a checkpoint.

    A table and a plot of cosine similarities, of [CLS] to the patches and of the patches to each
    other: means over the pictures, per block. Plain checkpoints are measured as they are. `--json`
    prints the table as well.
    """
    options.require_export_extra()
    from clsspec_export.analysis import analyze as measure
    from clsspec_export.analysis import prepare, write_csv
    from clsspec_export.analysis_plot import plot
    from clsspec_export.checkpoints.source import load_checkpoint
    from clsspec_serve.colour import parse_colour
    from clsspec_serve.images import ImageLimits
    from clsspec_serve.progress import progress
    from clsspec_serve.transform import parse_size
    from clsspec_serve.whole import new_folder

    _require_replaceable(out, force)
    limits = ImageLimits(max_pixels, parse_colour(background))
    network_size = None if size is None else parse_size(size)
    print(f"reading {checkpoint}", file=sys.stderr, flush=True)
    loaded, origin = load_checkpoint(checkpoint, architecture=arch, rules=rules)

    with new_folder(out, replace=force) as folder:
        with progress("Analyzing", len(images), "images") as meter:

            def pictures() -> Iterator[NDArray[np.uint8]]:
                for image in images:
                    yield prepare(loaded, image, size=network_size, policy=resize, limits=limits)
                    meter.advance()

            rows = measure(loaded, pictures())
        write_csv(rows, folder / TABLE)
        plot(rows, origin.source, folder / PLOT)
    print(f"{out}: {TABLE} and {PLOT}, {len(rows)} rows", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))


def _require_replaceable(out: Path, force: bool) -> None:
    """Raise unless `out` is free or, with `force`, an analysis: no other folder is removed."""
    # Not Path's own methods, which raise for a name that is too long.
    if not os.path.exists(out):
        return
    if not force:
        raise UsageError(f"{out} exists already; --force replaces it")
    try:
        names = set(os.listdir(out))
    except OSError:
        names = set()
    if TABLE not in names or not names <= {TABLE, PLOT}:
        raise OutputError(f"{out} exists and is not an analysis; it is not replaced")
