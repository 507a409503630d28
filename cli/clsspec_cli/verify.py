"""`clsspec verify`: is a bundle whole, and does this machine compute what PyTorch computed?

Of a data set's run: are its files those that were written, and its answers still the same?
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from clsspec_cli.chosen import chosen_bundle
from clsspec_cli.verify_run import SAMPLE, is_run, verify_run
from clsspec_serve.errors import BundleError, ExportError, UsageError

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


Sample = Annotated[
    int | None,
    typer.Option(
        min=0,
        envvar="CLSSPEC_SAMPLE",
        help=f"Of a run, pictures that are computed again, {SAMPLE} unless given.",
        show_default=False,
    ),
]
RunModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Of a run, its model, where that is not where it was.",
        show_default=False,
    ),
]


def verify(what: Verified = None, sample: Sample = None, model: RunModel = None) -> None:
    """Check a bundle's files, and every engine here against the PyTorch outputs it carries.

    With ONNX Runtime installed, the graph's matrix products are counted too. Of a run of `clsspec
    batch` every file is read and compared with its record, every row with the listing, and some
    pictures are computed again and compared with what is stored.
    """
    if what is not None and is_run(what):
        verify_run(what, SAMPLE if sample is None else sample, model)
    elif sample is not None or model is not None:
        raise UsageError("--sample and --model are for the run of a data set; this is a bundle")
    else:
        _verify_bundle(what)


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
        from clsspec_export.audit import audit, audit_variant

        architecture, compared = opened.manifest.architecture, "products"
        try:
            audit(opened.graph, architecture)
            for variant in opened.manifest.variants:
                try:
                    audit_variant(opened.path, variant, architecture)
                except ModuleNotFoundError as error:  # of an extra that is not for serving
                    lacking = f"{error.name} is not installed"
                    print(f"products of {variant.graph}: not compared: {lacking}")
                    compared = "products of the other graphs"
            print(f"{compared}: those of the architecture, in our graphs and after optimisation")
        except ExportError as error:
            print(f"products: FAILED: {error}")
            failed.append("products")
    if failed:
        raise BundleError(f"{opened.path} failed: {', '.join(failed)}")
