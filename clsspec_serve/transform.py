"""RGB pixels → the network's input, as the source model's own evaluation prepares it.

`squash` and `crop` follow timm's `transforms_imagenet_eval` (timm/data/transforms_factory.py,
`crop_mode` "squash" and "center"), and torchvision's `Resize` and `CenterCrop` below it, exactly.
Padding to whole patches follows DINOv2's `CenterPadding`.
"""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clsspec_serve.choices import CropOffset, Interpolation, Policy
from clsspec_serve.errors import ImageError, UsageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.images import DEFAULT_MAX_PIXELS, check_pixels
from clsspec_serve.manifest import Preprocessing

Size = tuple[int, int]

CHANNELS = 4
"""Of the network's input: red, green, blue and coverage."""

_RESAMPLING: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def transform(
    picture: NDArray[np.uint8] | Image.Image,
    preprocessing: Preprocessing,
    patch: int,
    *,
    size: Size | None = None,
    policy: Policy | None = None,
) -> tuple[NDArray[np.uint8], Geometry]:
    """The network's input `(4, H', W')` uint8, and how it lies in the picture.

    `picture`: `(H, W, 3)` uint8, RGB, or Pillow's in mode RGB. Channels 0 to 2 of the input are RGB
    in 0..255; channel 3, "coverage", is 1 inside the picture and 0 in the padding, where RGB is 0
    too. `size`, `policy` and the errors raised: see `plan`. Also raises ImageError for pixels of
    another shape or dtype.
    """
    geometry = plan(size_of(picture), preprocessing, patch, size=size, policy=policy)
    return render(picture, geometry, preprocessing.interpolation), geometry


def render(
    picture: NDArray[np.uint8] | Image.Image, geometry: Geometry, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """The network's input that `transform` gives for this geometry."""
    planes = _resampled(picture, geometry.resized, interpolation)
    top, left, height, width = geometry.crop
    out = np.zeros((CHANNELS, *geometry.input), np.uint8)
    inner = out[
        :,
        geometry.padding[0] : geometry.padding[0] + height,
        geometry.padding[1] : geometry.padding[1] + width,
    ]
    # Black around a picture that is smaller than the crop is content to the source's protocol.
    inner[3] = 1
    y, x = max(-top, 0), max(-left, 0)
    for target, plane in zip(inner[:3], planes, strict=True):
        kept = plane[max(top, 0) : top + height, max(left, 0) : left + width]
        target[y : y + kept.shape[0], x : x + kept.shape[1]] = kept
    return out


def size_of(picture: NDArray[np.uint8] | Image.Image) -> Size:
    """(H, W); raises ImageError for an array that is not `(H, W, 3)` uint8."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    check_pixels(picture)
    return picture.shape[0], picture.shape[1]


def parse_size(text: str) -> Size:
    """(H, W) in pixels from `480x640`, or from one number for a square. Raises UsageError."""
    height, cross, width = text.lower().partition("x")
    sides = (height, width if cross else height)
    if not all(side.isdecimal() and int(side) for side in sides):
        raise UsageError(f"size {text!r}; accepted is HxW in pixels, such as 480x640, or one side")
    return int(sides[0]), int(sides[1])


def plan(
    image: Size,
    preprocessing: Preprocessing,
    patch: int,
    *,
    size: Size | None = None,
    policy: Policy | None = None,
) -> Geometry:
    """The geometry that `transform` gives a picture of (H, W) `image`, without its pixels.

    `patch`: side of a patch in pixels. `size`: (H, W), in place of the preprocessing's own, whose
    `resize` then grows or shrinks with it; under `squash` and `crop` a picture of exactly this size
    is not resampled. `policy`: in place of the preprocessing's own. What is kept is padded, in the
    middle, to whole patches; `fit` gives whole patches by itself. `short` is MMSegmentation's
    resize to a short side, which its test pipelines write as a scale without a bound.
    Raises UsageError for a size or policy that is none, ImageError when the picture is so
    elongated, or `size` so large, that resampling would take more than `DEFAULT_MAX_PIXELS` pixels.
    """
    target = preprocessing.size if size is None else size
    if not isinstance(target, tuple) or len(target) != 2 or policy not in (None, *get_args(Policy)):
        raise UsageError(
            f"size {size!r}, policy {policy!r}; accepted are (H, W) in pixels and "
            f"{', '.join(get_args(Policy))}"
        )
    if min(*target, patch) < 1:
        raise UsageError(f"size is {target} and patch {patch}; accepted are 1 and more")
    rule = preprocessing.policy if policy is None else policy
    if rule == "fit":
        resized = target = _fitting(image, target, patch)
    elif rule == "short":
        resized = target = _short(image, min(target))
    elif size == image:
        resized = image
    elif rule == "squash":
        resized = _resize_for(target, preprocessing)
    else:
        resized = _covering(image, _resize_for(target, preprocessing))
    offset = preprocessing.crop_offset
    top, left = (_margin(resized[i], target[i], offset) for i in (0, 1))
    short = (-target[0] % patch, -target[1] % patch)
    before = (short[0] // 2, short[1] // 2)
    padded = (target[0] + short[0], target[1] + short[1])
    _check_memory(image, resized, padded)
    return Geometry(
        image=image,
        resized=resized,
        crop=(top, left, *target),
        padding=(*before, short[0] - before[0], short[1] - before[1]),
        input=padded,
        patch=patch,
        grid=(padded[0] // patch, padded[1] // patch),
    )


def _resize_for(target: Size, preprocessing: Preprocessing) -> Size:
    """The preprocessing's `resize`, scaled per axis to an input of `target`, rounded down."""
    resize = preprocessing.resize or preprocessing.size
    height, width = (target[i] * resize[i] // preprocessing.size[i] for i in (0, 1))
    return max(height, 1), max(width, 1)


def _covering(image: Size, cover: Size) -> Size:
    """The picture's aspect ratio at the smallest size that covers `cover`."""
    height, width = image
    if cover[0] == cover[1]:
        # torchvision's Resize(int): the long side is rounded down.
        side = cover[0]
        if width <= height:
            return int(side * height / width), side
        return side, int(side * width / height)
    # timm's ResizeKeepRatio: both sides are rounded to nearest.
    ratio = min(height / cover[0], width / cover[1])
    return round(height / ratio), round(width / ratio)


def _fitting(image: Size, target: Size, patch: int) -> Size:
    """The picture's aspect ratio at the area of `target`, in whole patches.

    A picture so elongated that its short side would be below one patch gets one patch there, and
    along the other side what is left of the area, so that the number of patches stays bounded.
    """
    area = target[0] * target[1]
    longest = max(area / patch, patch)
    scale = math.sqrt(area / (image[0] * image[1]))
    height, width = (max(round(min(side * scale, longest) / patch), 1) * patch for side in image)
    return height, width


def _short(image: Size, side: int) -> Size:
    """The picture's aspect ratio with a short side of `side`; the long one rounded to nearest."""
    scale = side / min(image)
    return int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)


def _margin(side: int, kept: int, rule: CropOffset) -> int:
    """Where the crop begins; negative where the side is shorter than what is to be kept of it."""
    if side < kept:
        # torchvision and transformers alike put the odd black pixel to the right or bottom.
        return -((kept - side) // 2)
    return (side - kept) // 2 if rule == "floor" else round((side - kept) / 2)


def _check_memory(image: Size, resized: Size, padded: Size) -> None:
    # Pillow resamples along x first and holds all rows of the picture at the new width.
    between = image[0] * resized[1] if resized != image else 0
    pixels = max(between, resized[0] * resized[1], padded[0] * padded[1])
    if pixels > DEFAULT_MAX_PIXELS:
        raise ImageError(
            f"a picture of {image[0]}x{image[1]} would be resampled to {resized[0]}x{resized[1]} "
            f"with {pixels} pixels in memory; accepted are {DEFAULT_MAX_PIXELS}"
        )


def _resampled(
    picture: NDArray[np.uint8] | Image.Image, size: Size, interpolation: Interpolation
) -> list[NDArray[np.uint8]]:
    """Red, green and blue `(H, W)` at that size."""
    if size_of(picture) != size:
        if not isinstance(picture, Image.Image):
            picture = Image.fromarray(np.ascontiguousarray(picture))
        picture = picture.resize((size[1], size[0]), _RESAMPLING[interpolation])
    if isinstance(picture, Image.Image):
        # Half of the time that split() and three arrays take.
        bands = [np.frombuffer(picture.tobytes("raw", band), np.uint8) for band in "RGB"]
        return [band.reshape(size) for band in bands]
    return [picture[..., channel] for channel in range(3)]
