"""`clsspec batch`: features, masks and depth of whole data sets."""

from __future__ import annotations

import sys
from math import inf
from typing import Annotated, Literal

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.pictures import image_limits, network_size
from clsspec_cli.runner_options import RunnerOptions
from clsspec_serve.choices import DType, EngineChoice, Precision
from clsspec_serve.errors import UsageError

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder, a quoted pattern, a .txt list of paths, WebDataset tars, Parquet tables or "
        "videos; also in an object store, such as s3://bucket/folder.",
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
SmallerMaps = Annotated[
    str,
    typer.Option(
        "--codec",
        envvar="CLSSPEC_CODEC",
        metavar="CODEC",
        help="Patch maps in a smaller form: int8, pca:128 (components), or pca:128,int8. What that "
        "loses is measured on a sample, and said.",
    ),
]
Dedupe = Annotated[
    bool,
    typer.Option(
        "--dedupe",
        help="Read all pictures first, and compute one of those with the same bytes; the others' "
        "rows say which.",
    ),
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
Npy = Annotated[
    bool, typer.Option("--npy", help="Write vectors as one array by row, too: cls.npy.")
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Write nothing, and say from a sample what it takes: files, disk, time.",
    ),
]
Column = Annotated[
    str | None,
    typer.Option(
        envvar="CLSSPEC_COLUMN",
        help="Of Parquet tables, the one with pictures.",
        show_default=False,
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        envvar="CLSSPEC_FPS",
        help="Of videos, so many frames of each second, those that are shown then; all of them "
        "unless given.",
        show_default=False,
    ),
]
Readers = Annotated[
    int,
    typer.Option(min=1, envvar="CLSSPEC_READERS", help="Threads of a replica that read files."),
]
Decoders = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="CLSSPEC_DECODERS",
        help="Threads of a replica that decode, as many as the engine's unless given; on Ray tasks "
        "of one CPU each, on any node, that read, too.",
        show_default=False,
    ),
]
Replicas = Annotated[
    int | None,
    typer.Option(
        min=1,
        envvar="CLSSPEC_REPLICAS",
        help="Models beside each other, each in a process with --threads of the cores. One, or one "
        "for each of --devices, or on Ray as many as fit, unless given.",
        show_default=False,
    ),
]
RunnerName = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--runner",
        envvar="CLSSPEC_RUNNER",
        help="This machine, or the Ray cluster that RAY_ADDRESS names or that runs here.",
    ),
]


def batch(
    source: Source,
    out: Out,
    model: options.Model = None,
    tasks: options.Tasks = None,
    layers: options.Layers = "",
    dtype: Floats = "float32",
    codec: SmallerMaps = "none",
    dedupe: Dedupe = False,
    shard_size: ShardSize = 512,
    max_errors: MaxErrors = None,
    append: Append = False,
    npy: Npy = False,
    plan: Plan = False,
    column: Column = None,
    fps: Fps = None,
    size: options.Size = None,
    resize: options.Resize = None,
    batch_size: options.BatchSize = 8,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    readers: Readers = 8,
    decoders: Decoders = None,
    devices: options.Devices = None,
    replicas: Replicas = None,
    runner: RunnerName = "local",
    background: options.Background = "ffffff",
    max_pixels: options.MaxPixels = 89_478_485,
) -> None:
    """Write features, masks and depth of a whole data set: sharded, and resumed where it ended.

    One decode and one forward pass for each picture, however many tasks. A picture that fails is a
    row with the reason. The same command goes on with a run that was interrupted, and redoes the
    shards that were in work.
    """
    options.require_dataset_extra()
    from clsspec_cli.plan import print_plan
    from clsspec_serve.dataset.asked import Asked
    from clsspec_serve.dataset.batch import Settings, work_off
    from clsspec_serve.dataset.codecs.codec import parse_codec
    from clsspec_serve.dataset.planning import plan as planned
    from clsspec_serve.layers import parse_layers, parse_tasks

    chosen = RunnerOptions(runner, devices, replicas, threads, decoders, readers)
    bundle = chosen_bundle(model)
    begun = _begun(out) if precision == "auto" else None
    if begun is None:
        engine, exact = chosen.settled(bundle, engine, precision)
    else:
        engine, exact = begun[0] if engine == "auto" else engine, begun[1]
    asked = Asked(
        tasks=parse_tasks(tasks or "cls,patches"),
        layers=parse_layers(layers),
        column=column,
        fps=_frame_rate(fps),
        size=network_size(size),
        policy=resize,
        limits=image_limits(max_pixels, background),
        engine=chosen.engine(engine, exact),
        precision=exact,
        dtype=dtype,
        codec=parse_codec(codec),
        dedupe=dedupe,
        batch_size=batch_size,
        shard_size=shard_size,
    )
    settings = Settings(source, out, asked, model, max_errors, append, npy, readers)
    if plan:
        one, count = chosen.one(bundle, asked)
        print_plan(planned(bundle, settings, one), out, count)
        return
    computing = chosen.runner(bundle, asked)
    try:
        print(work_off(bundle, settings, computing).text(), file=sys.stderr)
    except KeyboardInterrupt:
        print("clsspec: interrupted; the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None


def _begun(out: str) -> tuple[EngineChoice, Precision] | None:
    """The engine and precision of a run that is there already: `auto` goes on with them."""
    from clsspec_serve.dataset.run import is_run, open_run
    from clsspec_serve.dataset.trees.opening import open_tree

    tree = open_tree(out)
    if not is_run(tree):
        return None
    asked = open_run(tree).state.asked
    return asked.engine, asked.precision


def _frame_rate(fps: float | None) -> float | None:
    if fps is not None and not 0 < fps < inf:
        raise UsageError(f"fps is {fps}; accepted are numbers above 0")
    return fps
