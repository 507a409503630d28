"""Features with the mean 0 and the variance 1 of the training pictures, and back.

This is the BatchNorm before the official segmentation heads, in eval mode and with exact
statistics: a constant rescaling, which lets one learning rate suit all channels and all layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clsspec_export.fit.examples import Examples
from clsspec_export.heads.linear import BATCH_NORM_EPS, fold_batch_norm
from clsspec_serve.errors import EngineError


@dataclass(frozen=True)
class Statistics:
    """`mean`, `variance` `(C,)` float64, of the head's inputs one after the other."""

    mean: Tensor
    variance: Tensor

    def apply(self, inputs: list[Tensor]) -> list[Tensor]:
        """`(x - mean) / sqrt(variance + eps)` of each input `(..., D)`, float32."""
        scale = torch.rsqrt(self.variance + BATCH_NORM_EPS)
        parts = zip(inputs, self.mean.chunk(len(inputs)), scale.chunk(len(inputs)), strict=True)
        return [(x - mean.float()) * factor.float() for x, mean, factor in parts]

    def fold(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """`(K, C)` and `(K,)` over standardised inputs as weight and bias over the inputs."""
        ones, zeros = torch.ones_like(self.mean), torch.zeros_like(self.mean)
        return fold_batch_norm(weight, bias, ones, zeros, self.mean, self.variance)


def statistics(examples: Examples) -> Statistics:
    """Per channel over all patches, or over all pictures where there is one vector for each.

    Raises `EngineError`, naming the picture, for features that are not finite.
    """
    counts = np.zeros(0)
    sums = squares = np.zeros((0, 0))
    for index in range(len(examples)):
        own = [np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in examples.features(index)]
        if not all(np.isfinite(x).all() for x in own):
            raise EngineError(f"the features of {examples.name(index)} are not finite numbers")
        if not len(counts):
            counts = np.zeros(len(own))
            sums, squares = np.zeros((2, len(own), own[0].shape[1]))
        counts += [len(x) for x in own]
        sums += [x.sum(axis=0) for x in own]
        squares += [np.einsum("nd,nd->d", x, x) for x in own]
    mean = sums / counts[:, None]
    variance = np.maximum(squares / counts[:, None] - mean**2, 0)
    return Statistics(torch.from_numpy(mean.ravel()), torch.from_numpy(variance.ravel()))
