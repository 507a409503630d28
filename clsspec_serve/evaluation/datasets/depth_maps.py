"""Files of measured depth → metres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.errors import DatasetError, one_line
from clsspec_serve.evaluation.datasets.png import read_png

FloatArray = NDArray[np.float32]


def read_depth_png(path: Path, units: float) -> FloatArray:
    """Metres `(H, W)` float32 from a 16-bit grey PNG with so many units in a metre.

    0 where nothing was measured. Raises DatasetError for any other file.
    """
    return _stored(path).astype(np.float32) / np.float32(units)


def read_rotated_png(path: Path) -> FloatArray:
    """Metres `(H, W)` float32 from SUN RGB-D's 16-bit PNGs.

    They hold millimetres whose 16 bits are rotated left by three (`read3dPoints.m` in the data
    set's toolbox). Below 8.192 m that is millimetres times eight; beyond, the three highest bits
    are the lowest. 0 where nothing was measured. Raises DatasetError for any other file.
    """
    stored = _stored(path).astype(np.uint16)
    return ((stored >> 3) | (stored << 13)).astype(np.float32) / np.float32(1000)


def read_depth_array(path: Path, units: float) -> FloatArray:
    """Metres `(H, W)` float32 from an `.npy` of real numbers with so many units in a metre.

    0 or NaN where nothing was measured. Raises DatasetError for any other file.
    """
    accepted = "an .npy of (H, W) integers or floats"
    try:
        with path.open("rb") as stream:
            stored = np.lib.format.read_array(stream, allow_pickle=False)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: is missing; accepted is {accepted}") from error
    # NumPy's reader raises whatever the first thing was that damaged data broke.
    except Exception as error:
        raise DatasetError(
            f"{path}: cannot be read as an .npy: {one_line(error)}; accepted is {accepted}"
        ) from error
    if stored.dtype.kind not in "iuf":
        raise DatasetError(f"{path}: holds {stored.dtype}; accepted is {accepted}")
    if stored.ndim != 2 or not stored.size:
        raise DatasetError(f"{path}: has shape {stored.shape}; accepted is {accepted}")
    return (stored / units).astype(np.float32)


def _stored(path: Path) -> NDArray[np.generic]:
    return read_png(path, ("I;16",), "a 16-bit grey PNG of depths")
