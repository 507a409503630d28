"""What is timed: one forward pass of a batch, from pixels to [CLS] and patch features."""

from __future__ import annotations

import numpy as np

from clsspec_serve.bench.asked import Case
from clsspec_serve.bench.rounds import Work
from clsspec_serve.layers import FEATURES
from clsspec_serve.predictor import Model
from clsspec_serve.transform import CHANNELS


def forward(model: Model, case: Case) -> Work:
    """A pass of random pixels, all of them covered."""
    shape = (case.batch, CHANNELS, *case.size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels[:, 3] = 1
    outputs = model.request(tasks=FEATURES).needed
    return lambda: model.infer(pixels, outputs, ())
