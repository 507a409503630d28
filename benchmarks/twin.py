"""`clsspec bench --twin` of the paper's S and B with random weights, without the export's checks.

python benchmarks/twin.py [--names NAME,NAME] [--batch 1,4] [--size 224] [--seconds 30]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bare_bundle import write_bare_bundle

from clsspec_export.checkpoints.random import random_checkpoint
from clsspec_export.twin import write_twin
from clsspec_serve.bench.asked import cases, runners
from clsspec_serve.bench.bench import Effort, bench

NAMES = "vit_small_patch14_dinov2_clsspec,vit_base_patch14_dinov2_clsspec"
PICTURE = Path(__file__).parent.parent / "examples" / "coffee.jpg"


def main() -> None:
    """Print a report of each, or with --json an object for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=NAMES)
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    batches = [int(each) for each in arguments.batch.split(",")]
    for name in arguments.names.split(","):
        with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as plain:
            bundle = write_bare_bundle(random_checkpoint(name), Path(own))
            report = bench(
                bundle,
                runners(bundle.manifest, None, None),
                cases(bundle.manifest, [(arguments.size, arguments.size)], batches),
                PICTURE.read_bytes(),
                twin=write_twin(bundle, Path(plain)),
                effort=Effort(arguments.seconds),
            )
        if arguments.json:
            print(json.dumps(report.to_dict()), flush=True)
        else:
            print("\n".join([*report.lines(), ""]), flush=True)


if __name__ == "__main__":
    main()
