"""Numbers as colours, by the names of the `cmap` catalogue."""

from __future__ import annotations

from typing import Any

import cmap
import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError

SOME = ("magma_r", "inferno", "viridis", "turbo", "Spectral_r", "gray")
"""Names for error messages; the catalogue has some 1,500, each also reversed by `_r`."""
LEVELS = 256
_STRIP = 256
"""Rows coloured at a time, which bounds the float64 copies."""


def colour_levels(name: str) -> NDArray[np.uint8]:
    """The colours of a map from its low to its high end, `(256, 3)` uint8, RGB.

    Raises UsageError for a name that is not in the catalogue.
    """
    try:
        colours = cmap.Colormap(name)(np.linspace(0, 1, LEVELS))
    except ValueError:
        raise UsageError(
            f"colour map {name!r}; accepted are {', '.join(SOME)} and all others that "
            '`python -c "import cmap; print(*cmap.Catalog().short_keys())"` prints'
        ) from None
    return np.rint(np.asarray(colours)[:, :3] * 255).astype(np.uint8)


def colour(values: NDArray[Any], name: str, low: float, high: float) -> NDArray[np.uint8]:
    """A picture `(H, W, 3)` uint8, RGB, of values `(H, W)`: `low` to `high` over the colour map.

    Values beyond take the colours of its ends, NaN is black, and without a range, `low` equal to
    `high`, everything takes the middle. Raises UsageError for an unknown map or a range that is
    none.
    """
    levels = colour_levels(name)
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise UsageError(f"colours from {low} to {high}; accepted is a finite range, upwards")
    out = np.empty((*values.shape, 3), np.uint8)
    for top in range(0, len(values), _STRIP):
        strip = values[top : top + _STRIP].astype(np.float64)
        missing = np.isnan(strip)
        share = (strip - low) / (high - low) if low < high else np.full(strip.shape, 0.5)
        # As matplotlib does it: equal shares of the range for all colours.
        index = np.where(missing, 0, share * LEVELS).clip(0, LEVELS - 1).astype(np.intp)
        out[top : top + _STRIP] = np.where(missing[..., None], 0, levels[index])
    return out
