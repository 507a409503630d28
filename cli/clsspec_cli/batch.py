"""`clsspec batch`: features, masks and depth of whole data sets."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.pictures import image_limits, network_size
from clsspec_serve.choices import DType

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder, a quoted pattern, a .txt list of paths, WebDataset tars or Parquet tables; "
        "also in an object store, such as s3://bucket/folder.",
        show_default=False,
    ),
]
Out = Annotated[
    str,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR",
        help="A new folder, or that of a run to go on with; also in an object store.",
        show_default=False,
    ),
]
Floats = Annotated[
    DType, typer.Option("--dtype", envvar="CLSSPEC_DTYPE", help="Of features and logits.")
]
ShardSize = Annotated[
    int,
    typer.Option(
        min=1, envvar="CLSSPEC_SHARD_SIZE", help="Pictures in a shard, which is done or not done."
    ),
]
MaxErrors = Annotated[
    int | None,
    typer.Option(
        min=0,
        envvar="CLSSPEC_MAX_ERRORS",
        help="End when more pictures than these have failed; any number unless given.",
        show_default=False,
    ),
]
Append = Annotated[
    bool, typer.Option("--append", help="Add pictures that are new in the source, as new shards.")
]
Column = Annotated[
    str | None,
    typer.Option(
        envvar="CLSSPEC_COLUMN",
        help="Of Parquet tables, the one with pictures.",
        show_default=False,
    ),
]
Readers = Annotated[
    int,
    typer.Option(min=1, envvar="CLSSPEC_READERS", help="Threads that read files."),
]


def batch(
    source: Source,
    out: Out,
    model: options.Model = None,
    tasks: options.Tasks = None,
    layers: options.Layers = "",
    dtype: Floats = "float32",
    shard_size: ShardSize = 512,
    max_errors: MaxErrors = None,
    append: Append = False,
    column: Column = None,
    size: options.Size = None,
    resize: options.Resize = None,
    batch_size: options.BatchSize = 8,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    readers: Readers = 8,
    background: options.Background = "ffffff",
    max_pixels: options.MaxPixels = 89_478_485,
) -> None:
    """Write features, masks and depth of a whole data set: sharded, and resumed where it ended.

    One decode and one forward pass for each picture, however many tasks. A picture that fails is a
    row with the reason. The same command goes on with a run that was interrupted, and redoes the
    shards that were in work.
    """
    options.require_dataset_extra()
    from clsspec_serve.dataset.asked import Asked
    from clsspec_serve.dataset.batch import Settings, work_off
    from clsspec_serve.dataset.runners.here import Here
    from clsspec_serve.dataset.working import Threads
    from clsspec_serve.layers import parse_layers, parse_tasks
    from clsspec_serve.predictor import start

    asked = Asked(
        tasks=parse_tasks(tasks or "cls,patches"),
        layers=parse_layers(layers),
        size=network_size(size),
        policy=resize,
        limits=image_limits(max_pixels, background),
        engine=engine,
        precision=precision,
        dtype=dtype,
        batch_size=batch_size,
        shard_size=shard_size,
    )
    settings = Settings(source, out, asked, model, column, max_errors, append)
    bundle = chosen_bundle(model)
    loaded = start(bundle, engine=engine, precision=precision, threads=threads, shared=True)
    runner = Here(loaded, Threads(readers, threads or os.cpu_count() or 1))
    try:
        print(work_off(bundle, settings, runner).text(), file=sys.stderr)
    except KeyboardInterrupt:
        print("clsspec: interrupted; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
