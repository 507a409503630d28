"""What `clsspec verify` says of a data set's run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from clsspec_cli import options
from clsspec_serve.errors import ClsspecError, DatasetError

if TYPE_CHECKING:
    from clsspec_serve.dataset.recomputing import Comparison
    from clsspec_serve.dataset.run import Run
    from clsspec_serve.dataset.shards import Record

SAMPLE = 8
"""Pictures that are computed again unless told otherwise."""
_SHOWN = 10
"""Problems."""


def is_run(what: str) -> bool:
    """Whether a folder, or an address, is that of a run."""
    if "://" not in what and not os.path.isfile(os.path.join(what, "run.json")):
        return False
    options.require_dataset_extra()
    from clsspec_serve.dataset import run
    from clsspec_serve.dataset.trees.opening import open_tree

    return run.is_run(open_tree(what))


def verify_run(what: str, sample: int, model: str | None) -> None:
    """Check its files, then compute a sample of its pictures; raises `DatasetError`."""
    from clsspec_serve.dataset import verification
    from clsspec_serve.dataset.run import open_run
    from clsspec_serve.dataset.trees.opening import open_tree

    run = open_run(open_tree(what))
    records = run.records()
    report = verification.verify_files(run, records)
    print(
        f"shards: {report.done} of {report.shards} done, with {report.pictures} pictures, of which "
        f"{report.failed} failed"
    )
    if report.problems:
        _print(report.problems)
        count = len({problem.split(":")[0] for problem in report.problems})
        raise DatasetError(
            f"{what} failed: {count} of its {report.files} files are not as recorded"
        )
    print(f"files: {report.files} whole, their rows those of the listing")
    if run.state.calibration is not None:
        print(f"codec: {run.state.calibration.words()}")
    if sample and records:
        _verify_sample(run, records, sample, model)


def _verify_sample(run: Run, records: dict[int, Record], sample: int, model: str | None) -> None:
    from clsspec_serve.dataset.recomputing import other_versions, recompute
    from clsspec_serve.dataset.working import Threads
    from clsspec_serve.loading import start
    from clsspec_serve.models import find_bundle

    asked = run.state.asked
    try:
        bundle = find_bundle(model or run.state.model)
        started = start(
            bundle,
            engine=asked.engine,
            precision=asked.precision,
            shared=True,
            batch_size=asked.batch_size,
        )
    except ClsspecError as error:
        raise DatasetError(
            f"no picture can be computed again: {error}; --model names the model, --sample 0 "
            "leaves it out"
        ) from error
    for words in other_versions(run, started):
        print(f"this machine: {words}")
    found = recompute(run, records, started, Threads(), sample)
    _print([*found.problems, *(f"not compared: {words}" for words in found.left)])
    print(f"sample: {found.pictures} pictures computed again{_worst(found)}")
    if found.problems:
        raise DatasetError(f"{run.tree.name} failed: pictures are not what they were stored as")
    if not found.pictures:
        raise DatasetError(
            f"no picture of {run.state.source} could be compared; --sample 0 leaves them out"
        )


def _worst(found: Comparison) -> str:
    if not found.worst:
        return ""
    differences = ", ".join(f"{name} {value:.1e}" for name, value in found.worst.items())
    return f"; largest differences: {differences}"


def _print(lines: tuple[str, ...] | list[str]) -> None:
    for line in lines[:_SHOWN]:
        print(line)
    if len(lines) > _SHOWN:
        print(f"and {len(lines) - _SHOWN} more")
