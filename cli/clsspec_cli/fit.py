"""`clsspec fit`: a linear head trained on a bundle's features, from labelled pictures."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clsspec_cli import fit_options, options
from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.pictures import network_size
from clsspec_cli.precision import settled
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import UsageError

if TYPE_CHECKING:
    from clsspec_export.fit.fitting import Fitted
    from clsspec_serve.predictor import Model


@dataclass(frozen=True)
class _Defaults:
    rates: str
    batch_size: int


_DEFAULTS: dict[HeadTask, _Defaults] = {
    "segment": _Defaults("1e-3,1e-2", 4),
    "depth": _Defaults("3e-3,1e-2", 4),
    "classify": _Defaults("1e-4,3e-4,1e-3,3e-3,1e-2", 128),
}


def fit(
    task: fit_options.Task,
    data: fit_options.Data,
    model: options.Model = None,
    out: fit_options.Out = None,
    into: fit_options.Into = None,
    dataset: fit_options.DatasetName = None,
    val: fit_options.Val = None,
    val_share: fit_options.ValShare = None,
    classes: fit_options.Classes = None,
    max_depth: fit_options.MaxDepth = None,
    units: fit_options.Units = None,
    bins: fit_options.Bins = None,
    regression: fit_options.Regression = False,
    layers: options.Layers = "",
    with_cls: fit_options.WithCls = False,
    cls_only: fit_options.ClsOnly = False,
    size: options.Size = None,
    resize: options.Resize = None,
    epochs: fit_options.Epochs = None,
    lr: fit_options.Rates = None,
    batch_size: fit_options.Pictures = None,
    seed: fit_options.Seed = 0,
    cache: fit_options.Cache = None,
    cache_size: fit_options.CacheSize = 50.0,
    force: fit_options.Force = False,
    engine: options.Engine = "auto",
    precision: options.Precision = "fp32",
    threads: options.Threads = None,
) -> None:
    """Train a linear head on a bundle's features, from labelled pictures.

    Features are computed once per picture, of the whole picture, and kept for the next run. A run
    that was interrupted goes on where it stopped. The same seed gives the same head.
    """
    options.require_export_extra()
    _check_task(
        task,
        {"--classes": classes, "--max-depth": max_depth, "--units": units, "--bins": bins}
        | {"--regression": regression or None, "--with-cls": with_cls or None}
        | {"--cls-only": cls_only or None},
        dataset,
    )
    if regression and bins is not None:
        raise UsageError("--bins and --regression exclude each other")
    if val is not None and val_share is not None:
        raise UsageError("--val and --val-share exclude each other")
    if not 0 < cache_size < math.inf:
        raise UsageError(f"--cache-size {cache_size:g}; accepted are numbers above 0")
    _check_destinations(out, into, force)
    rates = _parse_rates(lr or _DEFAULTS[task].rates)

    from clsspec_export.fetch import cache_folder
    from clsspec_export.fit.blueprint import Blueprint
    from clsspec_export.fit.fitting import Storage, fit_head
    from clsspec_export.fit.labelled import HeldOut, Labelled
    from clsspec_export.fit.training import Settings
    from clsspec_serve.layers import parse_layers
    from clsspec_serve.loading import start

    chosen = parse_layers(layers)
    network = network_size(size)
    labelled = Labelled(task, dataset, classes, units, max_depth)
    training = labelled.training(data)
    if val is None:
        share = 0.1 if val_share is None else val_share
        training, validation = HeldOut(share, seed).split(training, data)
    else:
        validation = labelled.validation(val, training)
    bundle = chosen_bundle(model)
    engine, exact = settled(bundle, engine, precision, threads=threads)
    loaded = start(bundle, engine=engine, precision=exact, threads=threads)
    blueprint = Blueprint(
        manifest=loaded.manifest,
        layers=chosen,
        both=not cls_only if task == "classify" else with_cls,
        trained_on=f"{data.resolve().name}, {len(training.samples)} pictures",
        size=network,
        policy=resize,
        dataset=dataset,
    )
    pictures = batch_size or _DEFAULTS[task].batch_size
    settings = Settings(
        epochs=epochs or _epochs(len(training.samples), pictures),
        rates=rates,
        batch_size=pictures,
        seed=seed,
    )
    fitted = fit_head(
        loaded,
        blueprint.head(training, 1 if regression else 256 if bins is None else bins),
        training.samples,
        validation.samples,
        settings,
        Storage(cache or cache_folder() / "fit", int(cache_size * 1e9)),
        report=_report,
    )
    _write(fitted, loaded, out, into, force)
    for rate, figure in fitted.figures.items():
        _report(f"learning rate {rate:g}: {figure.text}")
    written = " and ".join(str(path) for path in (out, into) if path is not None)
    _report(
        f"{written}: {fitted.figure.text} on {len(validation.samples)} pictures after "
        f"training on {len(training.samples)}, learning rate {fitted.rate:g}"
    )


def _report(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


_OF_TASKS: dict[str, tuple[HeadTask, ...]] = {
    "--classes": ("segment",),
    "--max-depth": ("depth",),
    "--units": ("depth",),
    "--bins": ("depth",),
    "--regression": ("depth",),
    "--with-cls": ("segment", "depth"),
    "--cls-only": ("classify",),
}


def _check_task(task: HeadTask, given: Mapping[str, object], dataset: str | None) -> None:
    """Raises `UsageError` for an option that has no meaning here, so that none is ignored."""
    for name, value in given.items():
        if value is not None and task not in _OF_TASKS[name]:
            raise UsageError(f"{name} is for {' and '.join(_OF_TASKS[name])}, not for {task}")
    for name in ("--classes", "--units"):
        if dataset is not None and given[name] is not None:
            raise UsageError(f"{name} is for plain folders; {dataset} says it itself")


def _check_destinations(out: Path | None, into: Path | None, force: bool) -> None:
    from clsspec_serve.bundle import MANIFEST
    from clsspec_serve.whole import require_writable

    if out is None and into is None:
        raise UsageError("there is nowhere to put the head; give --out, --into or both")
    for path in (out, into):
        if path is not None and os.path.exists(path) and not force:
            raise UsageError(f"{path} exists already; --force replaces it")
    if out is not None:
        if out.suffix != ".safetensors":
            raise UsageError(f"--out {out}; accepted is a file that ends in .safetensors")
        require_writable(out)
    if into is not None:
        if os.path.exists(into) and not (into / MANIFEST).is_file():
            raise UsageError(f"--into {into} exists and is not a bundle; it is not replaced")
        require_writable(into / MANIFEST)


def _parse_rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--lr {text}; accepted are numbers above 0, such as 1e-3,1e-2") from None


def _epochs(pictures: int, batch_size: int) -> int:
    steps = math.ceil(pictures / batch_size)
    return min(max(math.ceil(fit_options.STEPS / steps), fit_options.FEWEST), fit_options.MOST)


def _write(fitted: Fitted, model: Model, out: Path | None, into: Path | None, force: bool) -> None:
    """The head's file and the new bundle; then nothing is left to go on with."""
    from clsspec_export.heads.attach import attach
    from clsspec_export.heads.own import write_own

    if out is not None:
        write_own(fitted.head, out)
    if into is not None:
        attach(model.bundle, [fitted.head], into, replace_existing=force, report=_report)
    fitted.checkpoint.remove()
