"""Hugging Face Optimum with ONNX Runtime, for `peers.py`; under a Python that has it installed.

    PYTHON benchmarks/peers_optimum.py FOLDER

Optimum needs transformers 4, so it has an environment of its own, and nothing of clsspec is
imported here. FOLDER holds a model as transformers saves it. Once that is exported and loaded, and
then for each request, a line on stdin, there is one line on stdout: `ok`, a space and the answer:
the versions at first, then the seconds of CPU that this process has taken. The end of stdin ends
the process, and so does an error, after a line with `error` and its reason.

- `pixels FILE`: keep the pictures of an .npy file, `(B, 3, H, W) float32`, normalised.
- `pass`: one forward pass of those kept.
- `tokens FILE`: write what the last pass gave to an .npy file, `(B, 1 + h * w, D) float32`.
- `cpu`: nothing but the answer.

A pass moves no data: the two lines take about 50 microseconds, nothing beside its tens of
milliseconds, so it may be timed by who asks.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version

PACKAGES = ("optimum", "optimum-onnx", "transformers", "onnxruntime", "torch")


def answers(folder: str, requests: Iterable[str]) -> Iterator[str]:
    """One when the model is ready, and one for each request."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    import numpy as np
    import torch
    from optimum.onnxruntime import (  # type: ignore[import-not-found]  # is elsewhere
        ORTModelForFeatureExtraction,
    )

    model = ORTModelForFeatureExtraction.from_pretrained(folder, export=True)
    yield versions
    for request in requests:
        word, _, file = request.rstrip("\n").partition(" ")
        if word == "pixels":
            pixels = torch.from_numpy(np.load(file))
        elif word == "pass":
            found = model(pixel_values=pixels)
        elif word == "tokens":
            np.save(file, found.last_hidden_state.numpy())
        elif word != "cpu":
            raise ValueError(f"a request is pixels, pass, tokens or cpu, not {word}")
        yield str(time.process_time())


def main() -> None:
    """Answer until stdin ends."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what an export prints is no answer
    try:
        for answer in answers(sys.argv[1], sys.stdin):
            print("ok", answer, file=pipe, flush=True)
    except Exception as error:
        reason = " ".join(str(error).split())
        print("error", f"{type(error).__name__}: {reason}", file=pipe, flush=True)


if __name__ == "__main__":
    main()
