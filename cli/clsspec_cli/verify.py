"""`clsspec verify`: is a bundle whole, and does this machine compute what PyTorch computed?

And of a data set's run: are its files those that were written?
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_serve.errors import BundleError, DatasetError, ExportError

if TYPE_CHECKING:
    from clsspec_serve.dataset.verification import Report

_SHOWN = 10
"""Problems of a run."""

Verified = Annotated[
    str | None,
    typer.Argument(
        metavar="BUNDLE|RUN",
        envvar="CLSSPEC_MODEL",
        help="A bundle's folder, or hf:owner/name[@revision]; or the folder of a run of `clsspec "
        "batch`. The embedded model unless given.",
        show_default=False,
    ),
]


def verify(what: Verified = None) -> None:
    """Check a bundle's files, and every engine here against the PyTorch outputs it carries.

    With ONNX Runtime installed, the graph's matrix products are counted too. Of a run of `clsspec
    batch` every file is read and compared with its record, and every row with the listing.
    """
    if what is not None and _is_run(what):
        _verify_run(what)
    else:
        _verify_bundle(what)


def _is_run(what: str) -> bool:
    if "://" not in what and not os.path.isfile(os.path.join(what, "run.json")):
        return False
    options.require_dataset_extra()
    from clsspec_serve.dataset.run import is_run
    from clsspec_serve.dataset.trees import open_tree

    return is_run(open_tree(what))


def _verify_run(what: str) -> None:
    from clsspec_serve.dataset.trees import open_tree
    from clsspec_serve.dataset.verification import verify_run

    report = verify_run(open_tree(what))
    print(
        f"shards: {report.done} of {report.shards} done, with {report.pictures} pictures, of which "
        f"{report.failed} failed"
    )
    if report.problems:
        raise _wrong(what, report)
    print(f"files: {report.files} whole, their rows those of the listing")


def _wrong(what: str, report: Report) -> DatasetError:
    for problem in report.problems[:_SHOWN]:
        print(problem)
    count = len(report.problems)
    if count > _SHOWN:
        print(f"and {count - _SHOWN} more")
    return DatasetError(f"{what} failed: {count} of its {report.files} files are not as recorded")


def _verify_bundle(bundle: str | None) -> None:
    from clsspec_serve.bundle import REFERENCE
    from clsspec_serve.verification import uncovered_heads, verify_engines

    opened = chosen_bundle(bundle)
    print(f"files: {len(opened.manifest.files)} whole")
    failed = []
    for report in verify_engines(opened):
        name = f"{report.engine} {report.precision}"
        if report.reason is not None:
            print(f"{name}: not run: {report.reason}")
            if report.precision == "fp32":  # lower ones depend on the machine
                failed.append(name)
            continue
        worst = max(report.differences, key=lambda difference: difference.relative)
        lowest = min(difference.cosine for difference in report.differences)
        verdict = "passed" if report.passed else "FAILED"
        print(
            f"{name}: {verdict}: {len(report.differences)} outputs, largest relative difference "
            f"{worst.relative:.1e}, lowest cosine {lowest:.6f}"
        )
        if not report.passed:
            failed.append(name)
    for task in uncovered_heads(opened):
        print(f"head for {task}: not compared: {REFERENCE} had no room for what it takes")
    if find_spec("onnxruntime") is not None:
        from clsspec_export.audit import audit

        try:
            audit(opened.graph, opened.manifest.architecture)
            print("products: those of the architecture, in our graph and after optimisation")
        except ExportError as error:
            print(f"products: FAILED: {error}")
            failed.append("products")
    if failed:
        raise BundleError(f"{opened.path} failed: {', '.join(failed)}")
