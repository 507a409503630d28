"""A run over a data set in a process of its own, with an engine that takes its time.

python tests/dataset_process.py BUNDLE SOURCE OUT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from clsspec_serve.dataset.batch import Settings, work_off
from clsspec_serve.engines.protocol import Arrays

SECONDS = 0.01
"""Of each forward pass."""


def main(bundle: str, source: str, out: str) -> None:
    """Run it to the end."""
    from http_server import observed

    def slow(inputs: Arrays) -> None:
        time.sleep(SECONDS * len(np.atleast_1d(inputs["pixels"])))

    model = observed(Path(bundle), slow)
    settings = Settings(source, out, shard_size=4, batch_size=3, readers=2)
    request = model.request(tasks=("cls", "patches", "depth"), policy="squash")
    print("begun", flush=True)
    work_off(model, request, settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
