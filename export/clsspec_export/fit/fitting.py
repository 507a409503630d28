"""From labelled pictures and a bundle to a head."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from clsspec_export.fit.examples import Examples, Extractor, Sample, identify
from clsspec_export.fit.feature_cache import digest
from clsspec_export.fit.objectives import Figure, objective
from clsspec_export.fit.standardize import statistics
from clsspec_export.fit.supervision import check_targets
from clsspec_export.fit.training import Checkpoint, Course, Settings, runners, weights_of
from clsspec_export.heads.linear import LinearHead
from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.samples import (
    DepthSample,
    SegmentationSample,
)
from clsspec_serve.heads import AnyHead, DepthHead
from clsspec_serve.predictor import Model
from clsspec_serve.progress import progress

Report = Callable[[str], None]

_LARGEST_RATE = 1e30
"""Far beyond use; PyTorch's optimiser fails by itself where a step is no float32."""


@dataclass(frozen=True)
class Storage:
    """Where features and unfinished trainings are kept, and how many bytes features may take."""

    folder: Path
    bound: int


@dataclass(frozen=True)
class Fitted:
    """The best head, the learning rate that led to it, and the figures of all rates.

    `checkpoint` is to be removed once the head is safe.
    """

    head: LinearHead
    rate: float
    figure: Figure
    figures: dict[float, Figure]
    checkpoint: Checkpoint


def fit_head(
    model: Model,
    description: AnyHead,
    training: Sequence[Sample],
    validation: Sequence[Sample],
    settings: Settings,
    storage: Storage,
    *,
    forward_batch: int = 8,
    report: Report = lambda message: None,
) -> Fitted:
    """Train one head for each learning rate and keep the one that is best on `validation`.

    Features are computed once per picture, `forward_batch` at a time, and kept in the storage. An
    interrupted run goes on where it stopped. The result is a function of the arguments alone, on
    one machine and one version of PyTorch. Raises `UsageError` for settings that lead nowhere,
    `DatasetError`, `ImageError`, `OutputError`, `EngineError`.
    """
    _check(settings, training, validation)
    extractor = Extractor(model, description, storage.folder)
    extractor.require_within([*training, *validation], storage.bound)
    count = len(training) + len(validation)
    with progress("Reading", count, "images") as meter:
        known = [identify(samples, meter.advance) for samples in (training, validation)]
    extractor.require_room([*known[0], *known[1]])
    with progress("Features", count, "images") as meter:
        sets = [
            extractor.examples(examples, batch_size=forward_batch, advance=meter.advance)
            for examples in known
        ]
    for examples, samples, what in zip(
        sets, (training, validation), ("training", "validation"), strict=True
    ):
        check_targets(examples, [_label_file(each) for each in samples], description, what, report)
    course = Course(sets[0], sets[1], statistics(sets[0]), objective(description))
    first_bias = _first_bias(sets[0], description)
    heads = runners(description, len(course.statistics.mean), settings, first_bias)
    key = _run_key(description, settings, sets, extractor.cache.folder.name)
    checkpoint = Checkpoint(storage.folder / "runs" / f"{key}.pt")
    done = checkpoint.restore(heads, report)
    with progress("Training", settings.epochs, "epochs") as meter:

        def watch(done: int, figures: Sequence[Figure]) -> None:
            meter.note(max(figures, key=lambda figure: figure.rank).text)
            meter.update(done, settings.epochs)

        figures = course.run(heads, settings, done, checkpoint, watch)
    best = max(range(len(heads)), key=lambda index: figures[index].rank)
    if not heads[best].finite:
        raise UsageError(
            f"the training diverged at all learning rates ({_listed(settings.rates)}); "
            "accepted are smaller ones"
        )
    weight, bias = course.statistics.fold(*weights_of(heads[best].head, description))
    return Fitted(
        head=LinearHead(description, weight, bias),
        rate=settings.rates[best],
        figure=figures[best],
        figures=dict(zip(settings.rates, figures, strict=True)),
        checkpoint=checkpoint,
    )


def _check(settings: Settings, training: Sequence[Sample], validation: Sequence[Sample]) -> None:
    for what, samples in (("train on", training), ("validate with", validation)):
        if not samples:
            raise UsageError(f"there are no pictures to {what}; accepted are 1 and more")
    rates = settings.rates
    if not rates or not all(0 < rate <= _LARGEST_RATE for rate in rates):
        raise UsageError(
            f"learning rates {_listed(rates)}; accepted are numbers above 0, up to "
            f"{_LARGEST_RATE:g}"
        )
    if len(set(rates)) < len(rates):
        raise UsageError(f"learning rates {_listed(rates)}; accepted is each once")
    if settings.epochs < 1 or settings.batch_size < 1 or settings.seed < 0:
        raise UsageError(
            f"{settings.epochs} epochs, batches of {settings.batch_size}, seed {settings.seed}; "
            "accepted are 1 and more, and a seed from 0 on"
        )


def _listed(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates) or "none"


def _label_file(sample: Sample) -> Path:
    if isinstance(sample, SegmentationSample):
        return sample.label
    return sample.depth if isinstance(sample, DepthSample) else sample.image


def _first_bias(training: Examples, description: AnyHead) -> float:
    """A regression starts from the mean depth: where relu is 0 it could not learn."""
    if not isinstance(description, DepthHead) or description.method != "regression":
        return 0.0
    total, count = 0.0, 0
    for index in range(len(training)):
        target = training.target(index)
        known = target[(target > description.minimum) & (target < description.maximum)]
        total, count = total + float(known.sum(dtype=np.float64)), count + known.size
    return total / count - description.minimum


def _run_key(
    description: AnyHead, settings: Settings, sets: Sequence[Examples], features: str
) -> str:
    """What a training's course depends on, so that a checkpoint is that of the same course."""
    state = {
        "description": description.model_dump(mode="json"),
        "settings": asdict(settings),
        "examples": [examples.keys for examples in sets],
        "features": features,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    return digest(json.dumps(state, sort_keys=True))
