"""Export every architecture of the paper's table: time, memory, size and parity of each.

    python benchmarks/architectures.py            the S models
    python benchmarks/architectures.py --all      B, L and H too
    python benchmarks/architectures.py NAME...    these

Each export runs in a process of its own, in a temporary folder that is removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TIMM = tuple(
    f"vit_{size}_patch14{registers}_dinov2"
    for size in ("small", "base", "large")
    for registers in ("", "_reg4")
)
"""The rows of the table that timm has itself."""


def export_one(name: str) -> None:
    """Export one architecture with random weights and print its figures as JSON."""
    from clsspec_export.checkpoints.checkpoint import Origin
    from clsspec_export.checkpoints.random import random_checkpoint
    from clsspec_export.export import export_bundle

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        manifest = export_bundle(random_checkpoint(name), bundle, Origin(f"random:{name}"))
        size = sum(file.stat().st_size for file in bundle.iterdir())
    facts = {
        "name": name,
        "parameters": manifest.architecture.parameters,
        "seconds": time.perf_counter() - start,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "bundle_mb": size / 1e6,
        "parity": {p.engine: max(p.cls, p.patches) for p in manifest.parity},
    }
    print(json.dumps(facts))


def main() -> None:
    """Print a Markdown table; the exit code is 1 when an export fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        export_one(arguments.one)
        return
    from clsspec_export.paper import PAPER

    every = [*TIMM, *(row.name for row in PAPER)]
    names = arguments.names or [name for name in every if arguments.all or "small" in name]
    print("| architecture | parameters | seconds | peak GB | bundle MB | parity |")
    print("|---|---|---|---|---|---|")
    failed = False
    for name in names:
        run = subprocess.run(
            [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=False
        )
        if run.returncode:
            failed = True
            print(f"| {name} | failed: {run.stderr.strip().splitlines()[-1]} |||||", flush=True)
            continue
        facts = json.loads(run.stdout.splitlines()[-1])
        parity = ", ".join(f"{engine} {value:.1e}" for engine, value in facts["parity"].items())
        print(
            f"| {name} | {facts['parameters']:,} | {facts['seconds']:.0f} | "
            f"{facts['peak_gb']:.1f} | {facts['bundle_mb']:.0f} | {parity} |",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
