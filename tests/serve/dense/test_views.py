from __future__ import annotations

from itertools import islice

import numpy as np
import official_inference as official
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transforms import preprocessing

from clsspec_serve.choices import Policy
from clsspec_serve.dense.views import cut, tile
from clsspec_serve.errors import ImageError
from clsspec_serve.geometry import Geometry
from clsspec_serve.transform import plan, transform

Pixels = NDArray[np.uint8]


def shown(
    image: tuple[int, int], size: tuple[int, int], policy: Policy, patch: int
) -> tuple[Pixels, Geometry]:
    """A picture of noise as the network would be given it whole."""
    pixels = np.random.default_rng(sum(image)).integers(0, 256, (*image, 3), np.uint8)
    return transform(pixels, preprocessing(size=size, policy=policy), patch)


def kept(pixels: Pixels, geometry: Geometry) -> torch.Tensor:
    """What is not padding, RGB and coverage."""
    covered = pixels[:, :, pixels[3].any(axis=0)][:, pixels[3].any(axis=1)]
    assert covered.shape[1:] == geometry.crop[2:]
    return torch.from_numpy(covered.copy())[None]


CASES = [
    ((300, 451), (100, 100), "short", 64, 40),
    ((451, 300), (100, 100), "short", 64, 40),
    ((45, 97), (45, 97), "squash", 30, 17),
    ((45, 97), (45, 97), "squash", 46, 46),
    ((90, 90), (57, 43), "crop", 29, 1),
    ((90, 30), (64, 64), "crop", 50, 25),
    ((300, 200), (90, 90), "fit", 33, 20),
]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("image", "size", "policy", "window", "stride"), CASES)
def test_views_are_the_official_windows_each_padded_by_itself(
    image: tuple[int, int],
    size: tuple[int, int],
    policy: Policy,
    window: int,
    stride: int,
    flip: bool,
) -> None:
    pixels, geometry = shown(image, size, policy, 14)
    seen: list[torch.Tensor] = []

    def network(padded: torch.Tensor) -> torch.Tensor:
        seen.append(padded[0])
        return padded

    whole = kept(pixels, geometry).double()
    for picture in (whole, whole.flip(3))[: 1 + flip]:
        official.slide(picture, network, 14, window, stride)
    tiling = tile(geometry, window, stride, flip)
    found = list(cut(pixels, geometry, tiling))
    assert len(found) == len(seen) == tiling.views
    for view, expected in zip(found, seen, strict=True):
        assert view.dtype == np.uint8
        np.testing.assert_array_equal(view, expected.numpy())


@pytest.mark.parametrize(("image", "size", "policy", "window", "stride"), CASES)
def test_without_windows_there_is_the_whole_picture_as_it_was_transformed(
    image: tuple[int, int], size: tuple[int, int], policy: Policy, window: int, stride: int
) -> None:
    pixels, geometry = shown(image, size, policy, 14)
    tiling = tile(geometry, None, None, False)
    (view,) = cut(pixels, geometry, tiling)
    assert tiling.views == 1
    np.testing.assert_array_equal(view, pixels)
    # A window that is larger than everything shows the same.
    (view,) = cut(pixels, geometry, tile(geometry, 1000, 600, False))
    np.testing.assert_array_equal(view, pixels)


def test_the_mirror_image_is_padded_after_mirroring() -> None:
    # 9 and 15 are padded to 14 and 28 by 2 and 3, 6 and 7: another column more on the right.
    pixels, geometry = shown((9, 15), (9, 15), "squash", 14)
    straight, mirrored = cut(pixels, geometry, tile(geometry, None, None, True))
    assert geometry.padding == (2, 6, 3, 7)
    np.testing.assert_array_equal(straight, pixels)
    np.testing.assert_array_equal(mirrored[:, 2:11, 6:21], pixels[:, 2:11, 6:21][:, :, ::-1])
    for view in (straight, mirrored):
        np.testing.assert_array_equal(view[3, 2:11, 6:21], 1)
        assert view[3].sum() == 9 * 15
        assert (view[:3] * (1 - view[3])).sum() == 0


def test_views_are_made_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, geometry = shown((300, 300), (300, 300), "squash", 14)
    made = []
    real = np.pad
    monkeypatch.setattr(np, "pad", lambda *given: made.append(1) or real(*given))
    views = cut(pixels, geometry, tile(geometry, 20, 10, True))
    assert made == []
    assert len(list(islice(views, 3))) == len(made) == 3


@settings(deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(1, 20),
    st.integers(1, 70),
    st.booleans(),
    st.data(),
)
def test_all_views_of_a_picture_have_one_shape(
    image: tuple[int, int], patch: int, window: int, flip: bool, data: st.DataObject
) -> None:
    pixels, geometry = shown(image, image, "squash", patch)
    tiling = tile(geometry, window, data.draw(st.integers(1, window)), flip)
    views = list(cut(pixels, geometry, tiling))
    assert len(views) == tiling.views
    assert len({view.shape for view in views}) == 1
    assert all(side % patch == 0 and side for side in views[0].shape[1:])


def test_windows_without_number_are_refused_before_they_are_listed() -> None:
    geometry = plan((9000, 9000), preprocessing(size=(9000, 9000), policy="squash"), 14)
    assert tile(geometry, 518, 345, False).views == 26**2
    with pytest.raises(ImageError, match=r"^a picture of 9000x9000, shown at 9000x9000, takes too"):
        tile(geometry, 14, 1, False)
