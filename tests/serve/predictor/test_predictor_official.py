"""Masks and depth of pictures, against the official evaluations in PyTorch."""

from __future__ import annotations

from typing import Any

import dense_network as network
import numpy as np
import official_inference as official
import pytest
import torch
from blotches import Pixels, picture
from dense_network import PATCH, Backbone
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clsspec_serve import Model
from clsspec_serve import predictor as module


def resampled(pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """Brought to (H, W) as the transform does, and normalised."""
    return network.normalised(
        np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))
    )


def agreement(found: NDArray[Any], values: Tensor, rounding: float) -> float:
    """The share of pixels with PyTorch's class; on the others two classes differ by rounding."""
    assert found.shape == values.shape[1:]
    winner = torch.from_numpy(found.astype(np.int64))[None]
    behind = values.amax(0) - values.gather(0, winner)[0]
    assert behind.max() <= rounding
    return float((behind == 0).float().mean())


OFFICIAL = [(512, 512), (512, 683), (683, 512), (375, 500), (300, 900), (601, 433), (513, 512)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", OFFICIAL)
def test_a_head_alone_is_evaluated_as_officially(
    model: Model, backbone: Backbone, size: tuple[int, int], flip: bool
) -> None:
    pixels = picture(*size)
    shown = resampled(pixels, official.short_side(size, 512))
    values = official.segmentation(
        shown, network.official_segment, PATCH, size, (512, 341), flip=flip
    )
    found = model(pixels, tasks=("segment",), flip=flip).segment
    # 512 are padded to 518, whose answer is resized, not cropped.
    assert {shape[1:] for shape, _ in backbone.runs} == {(4, 518, 518)}
    share = agreement(found, values, 1e-6 if flip else 1e-5)
    print(f"{round(share * found.size)} of {found.size} pixels have PyTorch's class")
    assert share > 0.9999


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("size", "side", "windows"),
    [
        ((230, 310), 131, (100, 67)),
        ((230, 310), 131, (99, 33)),
        ((310, 230), 131, (84, 84)),
        ((97, 300), 57, (57, 19)),
        ((150, 101), 97, (512, 341)),
        ((97, 151), 97, (96, 1)),
        ((60, 60), 29, (14, 9)),
        ((230, 310), 131, None),
        ((101, 97), 57, None),
        ((1, 1), 33, None),
        ((1, 1), 33, (20, 10)),
        ((1, 7), 33, (33, 20)),
    ],
)
def test_other_windows_and_sizes_are_taken_alike(
    model: Model,
    size: tuple[int, int],
    side: int,
    windows: tuple[int, int] | None,
    flip: bool,
) -> None:
    pixels = picture(*size)
    window, stride = windows or (0, None)
    options: dict[str, Any] = {"size": (side, side), "window": window, "stride": stride}
    both = model(pixels, tasks=("segment", "depth"), flip=flip, **options)
    shown = resampled(pixels, official.short_side(size, side))
    values = official.segmentation(shown, network.official_segment, PATCH, size, windows, flip=flip)
    assert agreement(both.segment, values, 1e-6 if flip else 1e-5) > 0.999
    if windows and windows[0] >= max(shown.shape):
        windows = None
    metres = official.depth(shown, network.official_depth, PATCH, size, windows, flip=flip)
    np.testing.assert_allclose(both.depth, metres, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "asked"), [((480, 640), None), ((427, 640), None), ((300, 211), (123, 123))]
)
@pytest.mark.parametrize("flip", [None, True, False])
def test_depth_is_one_bilinear_step_from_the_grid(
    model: Model, size: tuple[int, int], asked: tuple[int, int] | None, flip: bool | None
) -> None:
    pixels = picture(*size)
    shown = resampled(pixels, official.short_side(size, min(asked or (480, 480))))
    expected = official.depth(shown, network.official_depth, PATCH, size, flip=flip is not False)
    found = model(pixels, tasks=("depth",), size=asked, flip=flip).depth
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("windows", [(0, None), (60, 41)])
@pytest.mark.parametrize("flip", [False, True])
def test_squash_shows_all_of_the_picture(
    model: Model, windows: tuple[int, int | None], flip: bool
) -> None:
    pixels = picture(120, 77)
    window, stride = windows
    options: dict[str, Any] = {"size": (98, 131), "policy": "squash"}
    found = model(
        pixels, tasks=("segment", "depth"), window=window, stride=stride, flip=flip, **options
    )
    shown = resampled(pixels, (98, 131))
    pair = (window, stride) if stride else None
    values = official.segmentation(
        shown, network.official_segment, PATCH, (120, 77), pair, flip=flip
    )
    assert agreement(found.segment, values, 1e-6 if flip else 1e-5) > 0.999
    metres = official.depth(shown, network.official_depth, PATCH, (120, 77), pair, flip=flip)
    np.testing.assert_allclose(found.depth, metres, rtol=0, atol=1e-5)


@pytest.mark.parametrize("windows", [(0, None), (50, 33)])
@pytest.mark.parametrize("flip", [False, True])
def test_of_a_crop_only_what_was_shown_is_answered(
    model: Model, windows: tuple[int, int | None], flip: bool
) -> None:
    pixels = picture(100, 160)
    window, stride = windows
    options: dict[str, Any] = {"size": (75, 75), "policy": "crop"}
    found = model(
        pixels, tasks=("segment", "depth"), window=window, stride=stride, flip=flip, **options
    )
    # 100 x 160 is resized to 75 x 120, of which the columns 22 to 97 are kept; a pixel is 0.75.
    shown = resampled(pixels, (75, 120))[:, :, :, 22:97]
    kept = [22 <= (x + 0.5) * 0.75 < 97 for x in range(160)]
    np.testing.assert_array_equal((found.segment != 255).all(axis=0), kept)
    np.testing.assert_array_equal((found.segment == 255).all(axis=0), np.logical_not(kept))
    np.testing.assert_array_equal(np.isfinite(found.depth).all(axis=0), kept)
    np.testing.assert_array_equal(np.isnan(found.depth).all(axis=0), np.logical_not(kept))
    # At 100 x 100 the kept part is on the picture's own pixels but for a shift of two thirds.
    middle = slice(kept.index(True) + 5, 160 - kept[::-1].index(True) - 5)
    pair = (window, stride) if stride else None
    fine = official.depth(shown, network.official_depth, PATCH, (300, 300), pair, flip=flip)
    # Three samples a pixel: the centre of pixel x is that of sample 3 x + 1 - 88.
    columns = [3 * x + 1 - 88 for x in range(160)][middle]
    np.testing.assert_allclose(found.depth[:, middle], fine[1::3][:, columns], rtol=0, atol=1e-5)
    values = official.segmentation(
        shown, network.official_segment, PATCH, (300, 300), pair, flip=flip
    )
    if not flip:
        assert agreement(found.segment[:, middle], values[:, 1::3][:, :, columns], 1e-5) > 0.999


def test_black_around_a_small_picture_is_shown_but_not_answered_for(model: Model) -> None:
    pixels = picture(40, 30)
    manifest = model.manifest
    head = manifest.heads[1]
    protocol = head.protocol.model_copy(
        update={"policy": "crop", "size": (70, 70), "resize": (30, 30)}
    )
    framed = head.model_copy(update={"protocol": protocol})
    model.bundle = module.Bundle(
        model.bundle.path, manifest.model_copy(update={"heads": (framed,)})
    )
    found = model(pixels, tasks=("depth",), flip=False).depth
    bordered = np.zeros((70, 70, 3), np.uint8)
    bordered[15:55, 20:50] = pixels
    metres = official.depth(network.normalised(bordered), network.official_depth, PATCH, (70, 70))
    np.testing.assert_allclose(found, metres[15:55, 20:50], rtol=0, atol=1e-5)
