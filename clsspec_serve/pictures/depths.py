"""Depth as 16-bit PNGs and in colours."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clsspec_serve.errors import UsageError
from clsspec_serve.pictures.colormap import colour

COLORMAP = "magma_r"
"""Near is bright, as in the notebook on depth that DINOv2 comes with."""
SCALE_KEY = "depth_scale"
"""PNG text: the stored values per metre, in decimal digits."""
UNIT_KEY = "depth_unit"
"""PNG text: what one stored value is."""
CONTRAST = (2, 98)
"""The percentiles of a picture between which its colours run."""

_MILLIMETRES = 1000
_KITTI = 256
_LARGEST = 65535
_REACH = _LARGEST / _KITTI
_UNITS = {_MILLIMETRES: "millimetre", _KITTI: "1/256 metre"}
_STRIP = 256
"""Rows converted at a time, which bounds the float64 copies."""
_COMPRESSION = 4
"""zlib's level: depth of 12 megapixels takes two fifths of the time of level 6, 14 % more bytes."""


def depth_scale(maximum: float) -> int:
    """Values per metre in a 16-bit PNG: 1000 for ranges that end below 65.5 m, else KITTI's 256.

    Raises UsageError where that does not reach `maximum`, in metres.
    """
    if not 0 < maximum <= _REACH:
        raise UsageError(
            f"a depth PNG reaches {_REACH:.2f} m, this head {maximum:g} m; write a .npy"
        )
    return _MILLIMETRES if maximum < 65.5 else _KITTI


def depth_png(metres: NDArray[np.float32], maximum: float) -> bytes:
    """A 16-bit grey PNG of depths `(H, W)`, under a head whose range ends at `maximum` metres.

    Values are metres times `depth_scale(maximum)`, rounded to nearest and kept within 1 to 65535;
    0 is no value, NaN in `metres`. The scale stands in the PNG's text.
    """
    _check(metres)
    scale = depth_scale(maximum)
    values = np.empty(metres.shape, np.uint16)
    for top in range(0, len(metres), _STRIP):
        strip = metres[top : top + _STRIP].astype(np.float64)
        exact = np.rint(strip * scale).clip(1, _LARGEST)
        values[top : top + _STRIP] = np.where(np.isnan(strip), 0, exact)
    text = PngInfo()
    text.add_text(SCALE_KEY, str(scale))
    text.add_text(UNIT_KEY, _UNITS[scale])
    text.add_text("Comment", f"metres = value / {scale}; 0 is no value")
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", pnginfo=text, compress_level=_COMPRESSION)
    return file.getvalue()


def colour_depth(
    metres: NDArray[np.float32],
    colormap: str = COLORMAP,
    minimum: float | None = None,
    maximum: float | None = None,
) -> NDArray[np.uint8]:
    """Depths `(H, W)` in colours, `(H, W, 3)` uint8, RGB; NaN is black.

    The colours run from `minimum` to `maximum` metres; what is not given comes from `depth_range`.
    Raises UsageError for an unknown colour map or a range that is none.
    """
    _check(metres)
    if minimum is None or maximum is None:
        low, high = depth_range(metres)
        minimum = low if minimum is None else minimum
        maximum = high if maximum is None else maximum
    return colour(metres, colormap, minimum, maximum)


def depth_range(metres: NDArray[np.float32]) -> tuple[float, float]:
    """The picture's own range, for contrast: its percentiles `CONTRAST`; 0, 0 without any value."""
    found = metres[np.isfinite(metres)]
    if not found.size:
        return 0.0, 0.0
    low, high = np.percentile(found, CONTRAST).tolist()
    return low, high


def _check(metres: NDArray[Any]) -> None:
    if metres.ndim != 2 or metres.dtype.kind != "f" or not metres.size:
        raise UsageError(
            f"depths have the shape {metres.shape} and type {metres.dtype}; accepted is (H, W) "
            "of floats, not empty"
        )
