"""`clsspec verify`: is a bundle whole, and does this machine compute what PyTorch computed?"""

from __future__ import annotations

from importlib.util import find_spec

from clsspec_cli import options
from clsspec_cli.chosen import chosen_bundle
from clsspec_serve.errors import BundleError, ExportError


def verify(bundle: options.BundleFolder = None) -> None:
    """Check a bundle's files, and every engine here against the PyTorch outputs it carries.

    With ONNX Runtime installed, the graph's matrix products are counted too.
    """
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
