"""A run over a data set in a process of its own, with an engine that takes its time.

python tests/dataset_process.py BUNDLE SOURCE OUT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from clsspec_serve.dataset.asked import Asked
from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.dataset.runners.here import Here
from clsspec_serve.dataset.working import Threads
from clsspec_serve.engines.protocol import Arrays

SECONDS = 0.01
"""Of each forward pass."""


def main(bundle: str, source: str, out: str) -> None:
    """Run it to the end."""
    from http_server import observed

    def slow(inputs: Arrays) -> None:
        time.sleep(SECONDS * len(np.atleast_1d(inputs["pixels"])))

    model = observed(Path(bundle), slow)
    asked = Asked(tasks=("cls", "patches", "depth"), policy="squash", shard_size=4, batch_size=3)
    print("begun", flush=True)
    work_off(model.bundle, Settings(source, out, asked, bundle), Here(model, Threads(2, 2)))


if __name__ == "__main__":
    main(*sys.argv[1:])
