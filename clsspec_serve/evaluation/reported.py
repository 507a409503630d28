"""Evaluate, and report what was done."""

from __future__ import annotations

import platform
from importlib.metadata import version
from time import perf_counter
from typing import Unpack

import numpy
import PIL

from clsspec_serve.bundle import GRAPH, HEADS
from clsspec_serve.choices import Task
from clsspec_serve.engines.select import engine_version
from clsspec_serve.evaluation.cls_neighbours import NeighboursResult, evaluate_neighbours
from clsspec_serve.evaluation.datasets.samples import Dataset, DepthDataset, SegmentationDataset
from clsspec_serve.evaluation.depth_score import DepthResult
from clsspec_serve.evaluation.evaluate import Result, evaluate, protocol_of
from clsspec_serve.evaluation.metrics import Metric, class_metrics, metrics_of
from clsspec_serve.evaluation.opening import Labelled
from clsspec_serve.evaluation.protocol import Shown, scored
from clsspec_serve.evaluation.report import Pictures, Report, Run
from clsspec_serve.evaluation.segmentation_score import SegmentationResult
from clsspec_serve.predictor import Model
from clsspec_serve.request import Options


def evaluate_and_report(
    model: Model,
    test: Labelled,
    train: Labelled | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 8,
    threads: int | None = None,
    **options: Unpack[Options],
) -> Report:
    """The numbers of a model on pictures, with all that is needed to make them again.

    With `train` by the nearest neighbours in it, otherwise by the head for the data set's task.
    `threads`: what the model was loaded with. `options` go before the protocols of data set and
    head. Raises as `evaluate` and `evaluate_neighbours`; there is no report of a part.
    """
    dataset = test.dataset
    task: Task = dataset.task if train is None else "cls"
    asked = protocol_of(dataset, task, options)
    shown = Shown.of(model.request(**asked))
    started = perf_counter()
    result: Result | NeighboursResult
    if train is None:
        result = evaluate(model, dataset, limit=limit, batch_size=batch_size, **asked)
    else:
        result = evaluate_neighbours(
            model, train.dataset, dataset, limit=limit, batch_size=batch_size, **asked
        )
    run = _run(model, task, threads, batch_size, perf_counter() - started)
    classes: tuple[Metric, ...] = ()
    if isinstance(result, SegmentationResult) and isinstance(dataset, SegmentationDataset):
        classes = class_metrics(result, dataset.categories)
    return Report(
        task=dataset.task if train is None else "knn",
        metrics=metrics_of(result),
        classes=classes,
        pictures=_pictures(test, result.images, _left_out(dataset, result)),
        neighbours=None if train is None else _pictures(train, len(train.dataset.samples), {}),
        shown=shown,
        rule=scored(dataset),
        run=run,
    )


def _pictures(labelled: Labelled, used: int, left_out: dict[str, int]) -> Pictures:
    return Pictures(
        name=labelled.dataset.name,
        root=str(labelled.root),
        split=labelled.split,
        used=used,
        labelled=len(labelled.dataset.samples),
        left_out=left_out,
    )


def _left_out(dataset: Dataset, result: Result | NeighboursResult) -> dict[str, int]:
    if not (isinstance(dataset, DepthDataset) and isinstance(result, DepthResult)):
        return {}
    return {
        "without a depth that counts": result.skipped,
        "listed without a depth file": dataset.without_depth,
    }


def _run(model: Model, task: Task, threads: int | None, batch_size: int, seconds: float) -> Run:
    graphs = (GRAPH, f"{HEADS}/{task}.onnx")
    files = model.manifest.files.items()
    return Run(
        model=model.manifest.name,
        path=str(model.bundle.path),
        sha256={name: file.sha256 for name, file in files if name.startswith(graphs)},
        engine=model.engine.name,
        precision=model.engine.precision,
        threads=threads,
        batch_size=batch_size,
        versions=_versions(model),
        seconds=seconds,
    )


def _versions(model: Model) -> dict[str, str]:
    """Of what numbers depend on; an engine's own word, as several packages provide one."""
    found = {"clsspec-serve": version("clsspec-serve"), "python": platform.python_version()}
    found |= {"numpy": numpy.__version__, "pillow": PIL.__version__}
    if (own := engine_version(model.engine.name)) is not None:
        found[model.engine.name] = own
    if model.gpu is not None:
        found["gpu"] = model.gpu.name
    return found
