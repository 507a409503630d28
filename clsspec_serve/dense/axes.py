"""Matrices that take a grid of patches to a picture's pixels along one axis.

Everything that the official evaluations do after a linear head (resizing each window, averaging
where windows overlap, resizing to the picture) is linear and works on each axis alone, so that one
matrix per axis holds it: `(pixels, samples) float32`, no entry below 0, every row with the sum 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError

FloatArray = NDArray[np.float32]


def bilinear_axis(old: int, new: int) -> FloatArray:
    """The `(new, old)` matrix of a bilinear resize without antialiasing, edges clamped.

    `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`: pixel i lies at
    (i + 0.5) * old / new - 0.5. Positions are computed in float64; PyTorch's own float32 positions
    are off by up to 1e-7 of `old`.
    """
    first, second, share = _neighbours((2 * np.arange(new) + 1) / (2 * new), old)
    matrix = np.zeros((new, old), np.float32)
    pixels = np.arange(new)
    matrix[pixels, first] = 1 - share
    matrix[pixels, second] += share
    return matrix


def window_spans(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    """(start, stop) of the windows that slide over `length` pixels, as in MMSegmentation.

    The last one ends at the picture's edge and overlaps its neighbour by more than the others. A
    picture that is shorter than the window has one span, the whole of it.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    stops = [min(i * stride + window, length) for i in range(count)]
    return [(max(stop - window, 0), stop) for stop in stops]


def stitch_axis(spans: Sequence[tuple[int, int]], cells: Sequence[int], length: int) -> FloatArray:
    """The `(length, sum(cells))` matrix of windows that are resized to their spans and averaged.

    `cells`: how many patches each window has, those of its padding too: the protocols resize the
    padded answer to the window's pixels, they do not crop it. Raises UsageError where the spans
    leave a pixel out.
    """
    matrix = np.zeros((length, sum(cells)), np.float32)
    seen = np.zeros(length, np.float32)
    first = 0
    for (start, stop), count in zip(spans, cells, strict=True):
        matrix[start:stop, first : first + count] = bilinear_axis(count, stop - start)
        seen[start:stop] += 1
        first += count
    if not seen.all():
        raise UsageError(
            f"windows {list(spans)} leave out pixel {int(seen.argmin())} of {length}; "
            "accepted are windows that show all pixels"
        )
    return matrix / seen[:, None]


def picture_axis(
    picture: int, resized: int, offset: int, kept: int, inner: FloatArray
) -> tuple[slice, FloatArray]:
    """The picture's pixels that a map shows, and the `(n, samples)` matrix that leads to them.

    `inner` `(level, samples)` leads to the map, whose `level` values span [offset, offset + kept)
    of the picture resized to `resized` pixels, and may reach over its edges. A pixel of the picture
    is shown where its centre lies inside. The map is bilinear between the centres of its values and
    constant beyond the outermost; over the whole of the picture that is
    `bilinear_axis(level, picture) @ inner`.
    """
    # Whole numbers, so that a centre on the edge of what is kept is decided exactly.
    place = (2 * np.arange(picture) + 1) * resized - 2 * picture * offset
    inside = np.flatnonzero((place >= 0) & (place < 2 * picture * kept))
    seen = slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
    first, second, share = _neighbours(place[seen] / (2 * picture * kept), len(inner))
    # Two rows of `inner` for each pixel: a product of matrices would be mostly with zeros.
    return seen, inner[first] * (1 - share)[:, None] + inner[second] * share[:, None]


def _neighbours(
    place: NDArray[np.float64], samples: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The samples before and after each place, and the share of the second.

    Places in (0, 1) between the outer edges of the samples, clamped to the outermost's centres.
    """
    source = np.clip(place * samples - 0.5, 0, samples - 1)
    first = np.minimum(source.astype(np.intp), max(samples - 2, 0))
    second = np.minimum(first + 1, samples - 1)
    return first, second, (source - first).astype(np.float32)
