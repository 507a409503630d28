"""The options of `clsspec export`, and what their texts mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from clsspec_serve.choices import HeadTask
from clsspec_serve.choices import Storage as StorageName
from clsspec_serve.errors import UsageError

if TYPE_CHECKING:
    from clsspec_serve.layers import Layer

Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="The bundle's folder; not for a bundle that there is, with --triton or --tensorrt.",
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
TensorRt = Annotated[
    bool,
    typer.Option(
        "--tensorrt",
        help="Build TensorRT's plans for this machine's GPU, too, and compare them. CHECKPOINT may "
        "then be a bundle's folder. Needs clsspec-serve[tensorrt].",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace a bundle, or Triton's models, that are there.")
]


def parse_heads(
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
