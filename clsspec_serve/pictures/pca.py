"""The patches' three principal components as red, green and blue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError

Doubles = NDArray[np.float64]

TAILS = 0.03
"""Share of the patches beyond either end of the colours.

About 2 % of the patches of a model without registers are outliers of high norm (arXiv 2309.16588);
a scale from the least to the largest value would show nothing but them.
"""
NOISE = 1e-6
"""Standard deviation, relative to the patches' root mean square length, of what only rounding left.

Float32 keeps 6e-8 of each value; no component is made of less than this.
"""
TIE = 1e-6
"""Relative difference below which two loadings are equally large."""
_BLOCK = 1024
"""Patches worked on at a time, which bounds the float64 copies."""


@dataclass(frozen=True)
class Pca:
    """A basis for the colours of patches.

    `mean` `(D,)` float64. `components` `(3, D)` float64, of length 1, or of zeros for a direction
    in which the patches do not differ. `low`, `high`: the scores that become 0 and 255 in each
    channel. `shares`: of the patches' variance, in each component.
    """

    mean: Doubles
    components: Doubles
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    shares: tuple[float, float, float]

    def apply(self, patches: NDArray[Any]) -> NDArray[np.uint8]:
        """The colours of a patch map `(h, w, D)`, `(h, w, 3)` uint8, RGB.

        128 where a component is missing. Raises UsageError for a map of another width.
        """
        flat = _flat(patches, len(self.mean))
        low, span = np.array(self.low), np.array(self.high) - np.array(self.low)
        missing = span <= 0
        out = np.empty((len(flat), 3), np.uint8)
        for start, scores in _scores([flat], self.mean, self.components):
            level = (scores - low) / np.where(missing, 1, span)
            level = np.where(missing, 128 / 255, level.clip(0, 1))
            out[start : start + len(scores)] = np.rint(level * 255)
        return out.reshape(*patches.shape[:2], 3)


def fit(maps: Sequence[NDArray[Any]]) -> Pca:
    """The components that patch maps `(h, w, D)` have in common; every patch counts the same.

    Exact, in float64: eigenvectors of the covariance `(D, D)`, or of the Gram matrix `(N, N)` where
    there are fewer patches. A component and its negative are as good as each other; taken is the
    one whose largest loading, by magnitude, is positive (the first of those that are equal but for
    rounding). That hangs on the direction alone, not on what a picture shows how much of, so like
    pictures get like colours. The colours run between the quantiles `TAILS` and 1 - `TAILS`.
    Raises UsageError for no patches, for maps of several widths and for values that are not finite.
    """
    if not maps:
        raise UsageError("a PCA needs a patch map, got none")
    width = maps[0].shape[-1]
    flats = [_flat(patches, width) for patches in maps]
    count = sum(len(flat) for flat in flats)
    total = np.zeros(width)
    squares = 0.0
    for _, block in _blocks(flats):
        total += block.sum(0)
        squares += float(np.square(block).sum())
    if not np.isfinite(squares):
        raise UsageError("a PCA needs finite features; these hold NaN or infinity")
    mean = total / count
    variances, components, variance = _principal(flats, mean, count)
    noise = NOISE * np.sqrt(squares / count)
    real = variances > noise**2
    components = np.where(real[:, None], components * signs(components)[:, None], 0)
    scores = np.concatenate([scores for _, scores in _scores(flats, mean, components)])
    low, high = np.quantile(scores, (TAILS, 1 - TAILS), axis=0)
    # Something small before a background of equal patches lies beyond both quantiles.
    narrow = high - low <= noise
    low, high = np.where(narrow, scores.min(0), low), np.where(narrow, scores.max(0), high)
    shares = np.where(real, variances / (variance or 1), 0)
    return Pca(mean, components, _three(low), _three(high), _three(shares))


def _principal(
    flats: Sequence[NDArray[Any]], mean: Doubles, count: int
) -> tuple[Doubles, Doubles, float]:
    """The three largest variances, their directions `(3, D)`, and the variance altogether."""
    width = len(mean)
    if count < width:
        rows = np.concatenate([block - mean for _, block in _blocks(flats)])
        variances, vectors = np.linalg.eigh(rows @ rows.T / count)
        directions = vectors[:, :-4:-1].T @ rows
    else:
        covariance = np.zeros((width, width))
        for _, block in _blocks(flats):
            centred = block - mean
            covariance += centred.T @ centred
        variances, vectors = np.linalg.eigh(covariance / count)
        directions = vectors[:, :-4:-1].T
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions / np.where(lengths > 0, lengths, 1)
    # Fewer than three patches or channels have fewer than three directions.
    lacking = 3 - len(directions)
    return (
        np.pad(variances[:-4:-1], (0, lacking)),
        np.pad(directions, ((0, lacking), (0, 0))),
        float(variances.sum()),
    )


def signs(components: Doubles) -> Doubles:
    """1 or -1 for each component; see `fit`."""
    sizes = np.abs(components)
    first = (sizes >= sizes.max(1, keepdims=True) * (1 - TIE)).argmax(1)
    return np.where(np.take_along_axis(components, first[:, None], 1)[:, 0] < 0, -1.0, 1.0)


def _flat(patches: NDArray[Any], width: int) -> NDArray[Any]:
    if patches.ndim != 3 or patches.shape[2] != width or not patches.size:
        raise UsageError(
            f"a patch map has the shape {patches.shape}; accepted is (h, w, {width}), not empty"
        )
    return patches.reshape(-1, width)


def _blocks(flats: Sequence[NDArray[Any]]) -> Iterator[tuple[int, Doubles]]:
    """A few patches of one map at a time `(n, D)`, and the index of the first in its map."""
    for flat in flats:
        for start in range(0, len(flat), _BLOCK):
            yield start, flat[start : start + _BLOCK].astype(np.float64)


def _scores(
    flats: Sequence[NDArray[Any]], mean: Doubles, components: Doubles
) -> Iterator[tuple[int, Doubles]]:
    for start, block in _blocks(flats):
        yield start, (block - mean) @ components.T


def _three(values: Doubles) -> tuple[float, float, float]:
    red, green, blue = values.tolist()
    return red, green, blue
