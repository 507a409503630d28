"""What the official evaluations do around a network, step after step, in PyTorch and float64.

Sources: MMSegmentation 0.27, `EncoderDecoder.slide_inference`, `whole_inference`, `aug_test`, and
mmcv's `rescale_size`; facebookresearch/dinov2, `CenterPadding` of `hub/utils.py` and
`DepthEncoderDecoder.encode_decode` of `eval/depth`.

Pictures are normalised, `(1, 3, H, W)`. A network takes one whose sides are whole patches and
answers for every patch `(1, K, h, w)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Network = Callable[[Tensor], Tensor]
Size = tuple[int, int]


def centre_padded(picture: Tensor, patch: int) -> Tensor:
    """Zeros around what is normalised already; the odd one to the right and bottom."""
    pads = []
    for side in (picture.shape[3], picture.shape[2]):
        lacking = -(-side // patch) * patch - side
        pads += [lacking // 2, lacking - lacking // 2]
    return functional.pad(picture, pads)


def resized(values: Tensor, size: Size) -> Tensor:
    """Bilinear, without aligned corners."""
    return functional.interpolate(values, size, mode="bilinear", align_corners=False)


def encode_decode(
    picture: Tensor, network: Network, patch: int, size: Size | None = None
) -> Tensor:
    """The padded answer, stretched to the picture's own pixels or to `size`."""
    height, width = size or picture.shape[2:]
    return resized(network(centre_padded(picture, patch)), (height, width))


def slide(picture: Tensor, network: Network, patch: int, window: int, stride: int) -> Tensor:
    """The mean over windows, at the picture's own pixels."""
    height, width = picture.shape[2:]
    down = max(height - window + stride - 1, 0) // stride + 1
    across = max(width - window + stride - 1, 0) // stride + 1
    total, count = None, torch.zeros(height, width, dtype=picture.dtype)
    for row in range(down):
        for column in range(across):
            bottom = min(row * stride + window, height)
            right = min(column * stride + window, width)
            top, left = max(bottom - window, 0), max(right - window, 0)
            answer = encode_decode(picture[:, :, top:bottom, left:right], network, patch)
            if total is None:
                total = answer.new_zeros(1, answer.shape[1], height, width)
            total[:, :, top:bottom, left:right] += answer
            count[top:bottom, left:right] += 1
    assert total is not None
    return total / count


def segmentation(
    picture: Tensor,
    network: Network,
    patch: int,
    size: Size,
    windows: tuple[int, int] | None = None,
    *,
    flip: bool = False,
) -> Tensor:
    """`(K, H, W)` at `size`: of each class the logit or, with `flip`, the mean softmax."""

    def logits(seen: Tensor) -> Tensor:
        if windows is None:
            return resized(encode_decode(seen, network, patch), size)
        return resized(slide(seen, network, patch, *windows), size)

    if not flip:
        return logits(picture)[0]
    straight, mirrored = logits(picture), logits(picture.flip(3))
    return ((straight.softmax(1) + mirrored.softmax(1).flip(3)) / 2)[0]


def depth(
    picture: Tensor,
    network: Network,
    patch: int,
    size: Size,
    windows: tuple[int, int] | None = None,
    *,
    flip: bool = False,
) -> Tensor:
    """`(H, W)` at `size`; without windows in a single step from the network's answer."""

    def metres(seen: Tensor) -> Tensor:
        if windows is None:
            return encode_decode(seen, network, patch, size)
        return resized(slide(seen, network, patch, *windows), size)

    if not flip:
        return metres(picture)[0, 0]
    return ((metres(picture) + metres(picture.flip(3)).flip(3)) / 2)[0, 0]


def short_side(size: Size, side: int) -> Size:
    """(H, W) of a picture at a short side of `side`, both sides rounded to nearest."""
    scale = min(1e8 / max(size), side / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
