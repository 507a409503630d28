"""The options of `clsspec fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clsspec_serve.choices import HeadTask

STEPS = 1000
FEWEST, MOST = 10, 100
"""Unless told otherwise a training has so many steps, in so many epochs."""

Task = Annotated[
    HeadTask,
    typer.Argument(metavar="TASK", help="segment, depth or classify.", show_default=False),
]
Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="segment: a folder with images/NAME.* and labels/NAME.png, which hold class ids, 255 "
        "where none applies. depth: images/NAME.* and depth/NAME.png, 16 bits, or .npy. classify: "
        "one folder for each class. With --dataset the data set's root.",
        show_default=False,
    ),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="A published data set, such as ade20k, nyu or imagenet: its train split is taken. "
        "Plain folders unless given.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="The head's .safetensors file.", show_default=False
    ),
]
Into = Annotated[
    Path | None,
    typer.Option(
        metavar="BUNDLE", help="A new bundle: the model's, with the head.", show_default=False
    ),
]
Val = Annotated[
    Path | None,
    typer.Option(
        metavar="DATA",
        help="Pictures to choose the learning rate with, laid out as DATA; with --dataset the "
        "split on which it is reported. A share of DATA is held out unless given.",
        show_default=False,
    ),
]
ValShare = Annotated[
    float | None,
    typer.Option(
        help="The share held out, chosen by the seed.  [default: 0.1]", show_default=False
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="segment: one class a line, from id 0 on, its name and, if wanted, its colour, such "
        "as `sky #70c0ff`. DATA/classes.txt unless given, or else as many as there are ids.",
        show_default=False,
    ),
]
MaxDepth = Annotated[
    float | None,
    typer.Option(
        metavar="METRES",
        help="depth: where the head's range ends. The data set's, or 10, unless given.",
        show_default=False,
    ),
]
Units = Annotated[
    float | None,
    typer.Option(
        help="depth: how many of the stored numbers are a metre. 1000 for PNGs and 1 for arrays "
        "unless given.",
        show_default=False,
    ),
]
Bins = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=4096,
        help="depth: how many depths the answer is a mean of. 256 unless given.",
        show_default=False,
    ),
]
Regression = Annotated[
    bool, typer.Option("--regression", help="depth: one value in place of bins.")
]
WithCls = Annotated[
    bool, typer.Option("--with-cls", help="segment, depth: give each patch the [CLS] as well.")
]
ClsOnly = Annotated[
    bool, typer.Option("--cls-only", help="classify: the [CLS] without the mean of the patches.")
]
Epochs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Passes over the pictures. As many as make {STEPS} steps, from {FEWEST} to {MOST}, "
        "unless given.",
        show_default=False,
    ),
]
Rates = Annotated[
    str | None,
    typer.Option(
        "--lr",
        metavar="1e-3,1e-2",
        help="AdamW's learning rates: a head is trained with each, on the same batches, and the "
        "best on the validation pictures is kept. Unless given 1e-3,1e-2 for segment, 3e-3,1e-2 "
        "for depth, and five from 1e-4 to 1e-2 for classify.",
        show_default=False,
    ),
]
Pictures = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Pictures in a step. 4, or 128 for classify, unless given.",
        show_default=False,
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Of the first weights, the order, and what is held out.")
]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where features are kept for the next run; `fit` in the cache folder unless given.",
        show_default=False,
    ),
]
CacheSize = Annotated[
    float, typer.Option(metavar="GB", help="Refused before any work if features take more.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what --out and --into name.")]
