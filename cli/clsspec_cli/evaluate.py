"""`clsspec eval`: the published numbers of a bundle, on labelled pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.pictures import network_size
from clsspec_cli.precision import settled
from clsspec_serve.evaluation.words import DatasetName, EvalTask

if TYPE_CHECKING:
    from clsspec_serve.request import Options

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="The folder of the data set, as it is unpacked.", show_default=False
    ),
]
Layout = Annotated[
    DatasetName,
    typer.Option(
        "--dataset",
        help="folders is one's own: images/ and labels/ (PNGs of class ids, 255 is not scored), "
        "images/ and depth/ (16-bit PNG or .npy), or one folder for each class.",
    ),
]
Task = Annotated[
    EvalTask | None,
    typer.Option(
        help="What folders hold; knn classifies by the [CLS] of the nearest training pictures, "
        "without a head. That of the published data set unless given.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of a published data set; the one that numbers are reported on unless given.",
        show_default=False,
    ),
]
Train = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER|SPLIT",
        help="The training pictures of knn, in the layout of DATA. Their features take 4 bytes "
        "times the model's width each in memory. ImageNet's own train split unless given.",
        show_default=False,
    ),
]
Units = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Units in a metre, of depth in folders. PNGs hold millimetres (1000) and .npy metres "
        "(1) unless given.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Score this many pictures, evenly over the data set; not a number to publish.",
        show_default=False,
    ),
]
PerClass = Annotated[
    bool, typer.Option("--per-class", help="Also print the IoU of every class; JSON always has it.")
]


def evaluate(
    data: Data,
    dataset: Layout = "folders",
    task: Task = None,
    model: options.Model = None,
    split: Split = None,
    train: Train = None,
    units: Units = None,
    limit: Limit = None,
    size: options.Size = None,
    resize: options.Resize = None,
    window: options.Window = None,
    stride: options.Stride = None,
    flip: options.Flip = None,
    batch_size: options.BatchSize = 8,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
    per_class: PerClass = False,
    as_json: options.Json = False,
) -> None:
    """Score a bundle on labelled pictures: mIoU, RMSE, top-1 or k-NN, by the published protocols.

    Pictures are shown as the head's own evaluation shows them, unless options say otherwise. A file
    that cannot be read ends the evaluation, as the rest would not be that data set.
    """
    from clsspec_serve.evaluation.evaluate import protocol_of
    from clsspec_serve.evaluation.matching import check_match
    from clsspec_serve.evaluation.opening import check_used, choose_task, open_labelled, open_train
    from clsspec_serve.evaluation.reported import evaluate_and_report
    from clsspec_serve.layers import select_heads
    from clsspec_serve.loading import start
    from clsspec_serve.request import settle

    chosen = choose_task(dataset, task)
    check_used(dataset, chosen, split=split, train=train, units=units, per_class=per_class)
    given: Options = {
        "size": network_size(size),
        "policy": resize,
        "window": window,
        "stride": stride,
        "flip": flip,
    }
    bundle = chosen_bundle(model)
    heads = [] if chosen == "knn" else select_heads(bundle.manifest.heads, (chosen,))
    test = open_labelled(dataset, chosen, data, heads, split=split, units=units)
    known = open_train(dataset, data, train) if chosen == "knn" else None
    for head in heads:
        warning = check_match(head, test.dataset)
        if warning is not None:
            print(f"clsspec: warning: {warning}", file=sys.stderr)
    settle(bundle.manifest, protocol_of(test.dataset, "cls" if chosen == "knn" else chosen, given))
    engine, exact = settled(bundle, engine, precision, threads=threads)
    loaded = start(bundle, engine=engine, precision=exact, threads=threads)
    report = evaluate_and_report(
        loaded, test, known, limit=limit, batch_size=batch_size, threads=threads, **given
    )
    if as_json:
        print(json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print("\n".join(report.lines(per_class=per_class)))
