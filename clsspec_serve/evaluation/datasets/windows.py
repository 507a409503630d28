"""The parts of pictures that published depth evaluations are shown, or are scored in.

Each takes the (H, W) of a picture and gives its rows and columns; it raises ValueError, in words
that follow a file's name, for a picture that is too small for it.
"""

from __future__ import annotations

from collections.abc import Callable

Size = tuple[int, int]
Window = Callable[[Size], tuple[slice, slice]]

_NYU = (480, 640)
_KITTI = (352, 1216)


def whole(size: Size) -> tuple[slice, slice]:
    """All of it."""
    return slice(0, size[0]), slice(0, size[1])


def nyu(size: Size) -> tuple[slice, slice]:
    """All of a picture of NYUv2, whose other windows count in its 480x640 pixels."""
    if size != _NYU:
        raise ValueError(f"is {size[0]}x{size[1]}; accepted is 480x640")
    return whole(size)


def nyu_without_border(size: Size) -> tuple[slice, slice]:
    """What the Monocular Depth Estimation Toolbox trains on: NYUv2 without its white border."""
    nyu(size)
    return slice(45, 472), slice(43, 608)


def eigen(size: Size) -> tuple[slice, slice]:
    """Where NYUv2 and SUN RGB-D are scored: rows 45 to 470 and columns 41 to 600, as far as there.

    From Eigen et al. (arXiv 1406.2283); the Monocular Depth Estimation Toolbox counts in the pixels
    of the depth map for both.
    """
    return slice(45, min(471, size[0])), slice(41, min(601, size[1]))


def kitti_benchmark(size: Size) -> tuple[slice, slice]:
    """What KITTI models are shown ("KB crop"): 352x1216, at the bottom, in the middle.

    An odd margin is one pixel smaller on the left.
    """
    height, width = _KITTI
    if size[0] < height or size[1] < width:
        raise ValueError(f"is {size[0]}x{size[1]}; accepted are {height}x{width} and larger")
    left = (size[1] - width) // 2
    return slice(size[0] - height, size[0]), slice(left, left + width)


def garg(size: Size) -> tuple[slice, slice]:
    """Where KITTI is scored, in shares of the cropped map (Garg et al., arXiv 1603.04992)."""
    height, width = size
    return (
        slice(int(0.40810811 * height), int(0.99189189 * height)),
        slice(int(0.03594771 * width), int(0.96405229 * width)),
    )
