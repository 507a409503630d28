from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clsspec_serve.errors import UsageError
from clsspec_serve.pictures.pca import TAILS, Pca, fit

WIDE, HIGH = (5, 4, 40), (30, 50, 12)
"""Fewer patches than channels, and more than one block of them."""


def patch_map(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    """Features with a clear order of variances, skewed, far from the origin."""
    generator = np.random.default_rng(seed)
    latent = generator.gamma(2, size=(*shape[:2], 4)) * [8, 4, 2, 0.5]
    basis = np.linalg.qr(np.random.default_rng(9).normal(size=(shape[2], 4)))[0]
    return (latent @ basis.T + 20 + 0.01 * generator.normal(size=shape)).astype(np.float32)


def by_svd(maps: list[NDArray[np.float32]]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Mean, components and shares of the variance, by the singular values of all patches."""
    flat = np.concatenate([each.reshape(-1, each.shape[2]) for each in maps]).astype(float)
    _, values, vectors = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    components = vectors[:3]
    for component in components:
        component *= np.sign(component[np.abs(component).argmax()])
    return flat.mean(0), components, (values**2 / (values**2).sum())[:3]


@pytest.mark.parametrize("shape", [WIDE, HIGH])
@pytest.mark.parametrize("count", [1, 3])
def test_the_components_are_those_of_a_singular_value_decomposition(
    shape: tuple[int, int, int], count: int
) -> None:
    maps = [patch_map(shape, seed) for seed in range(count)]
    pca = fit(maps)
    mean, components, shares = by_svd(maps)
    np.testing.assert_allclose(pca.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(pca.components, components, atol=1e-9)
    np.testing.assert_allclose(pca.shares, shares, rtol=1e-9)


@pytest.mark.parametrize("shape", [WIDE, HIGH])
def test_colours_run_between_the_quantiles_of_all_pictures(shape: tuple[int, int, int]) -> None:
    maps = [patch_map(shape, seed) for seed in range(2)]
    pca = fit(maps)
    mean, components, _ = by_svd(maps)
    scores = (np.stack(maps).astype(float) - mean) @ components.T
    ordered = np.sort(scores.reshape(-1, 3), axis=0)
    for channel in range(3):
        place = np.array([TAILS, 1 - TAILS]) * (len(ordered) - 1)
        low, high = np.interp(place, np.arange(len(ordered)), ordered[:, channel])
        expected = np.clip((scores[1, ..., channel] - low) / (high - low), 0, 1) * 255
        found = pca.apply(maps[1])[..., channel].astype(float)
        assert np.abs(found - expected).max() <= 0.5 + 1e-6
    colours = pca.apply(maps[0])
    assert (colours.dtype, colours.shape) == (np.uint8, (*shape[:2], 3))


@pytest.mark.parametrize("shape", [WIDE, HIGH])
def test_a_picture_keeps_its_colours_under_noise(shape: tuple[int, int, int]) -> None:
    patches = patch_map(shape)
    colours = fit([patches]).apply(patches).astype(int)
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
        noisy = patches + 1e-4 * noise
        assert np.abs(fit([noisy]).apply(noisy) - colours).max() <= 2


def test_the_largest_loading_is_positive() -> None:
    # Along (0.6, -0.8) in two of four channels, and along (1, 1, -1, 1) / 2 in others.
    steps = np.linspace(-1, 1, 41)
    one = np.zeros((41, 8))
    one[:, 1], one[:, 6] = 0.6 * steps, -0.8 * steps
    np.testing.assert_allclose(
        fit([one[None]]).components[0], [0, -0.6, 0, 0, 0, 0, 0.8, 0], atol=1e-12
    )
    four = np.zeros((41, 8))
    four[:, [2, 3, 5, 7]] = steps[:, None] * [-1, -1, 1, -1]
    # All four are the largest, but for rounding: the first of them decides.
    np.testing.assert_allclose(
        fit([four[None]]).components[0], [0, 0, 0.5, 0.5, 0, -0.5, 0, 0.5], atol=1e-12
    )


def test_the_sign_does_not_hang_on_rounding_among_equal_loadings() -> None:
    steps = np.linspace(-1, 1, 41)[:, None]
    for tilt in (1 - 1e-9, 1 + 1e-9):
        rows = steps * [0.5, -0.5 * tilt, 0.2]
        assert fit([rows[None]]).components[0, 0] > 0


@pytest.mark.parametrize("shape", [WIDE, HIGH])
def test_the_order_of_pictures_does_not_matter(shape: tuple[int, int, int]) -> None:
    maps = [patch_map(shape, seed) for seed in range(4)]
    first, second = fit(maps), fit([maps[each] for each in (2, 0, 3, 1)])
    np.testing.assert_allclose(first.components, second.components, atol=1e-10)
    for each in maps:
        np.testing.assert_array_equal(first.apply(each), second.apply(each))


def test_the_order_of_patches_does_not_matter() -> None:
    patches = patch_map(HIGH)
    turned = patches[::-1, ::-1].transpose(1, 0, 2)
    colours = fit([patches]).apply(patches)
    np.testing.assert_array_equal(fit([turned]).apply(turned), colours[::-1, ::-1].swapaxes(0, 1))


def test_unit_and_origin_of_the_features_do_not_matter() -> None:
    patches = patch_map(HIGH).astype(float)
    other = patches * 3 - np.arange(12)
    difference = fit([other]).apply(other).astype(int) - fit([patches]).apply(patches)
    assert np.abs(difference).max() <= 1


def test_one_pca_gives_like_patches_like_colours() -> None:
    one, two = patch_map(HIGH, 0), patch_map(HIGH, 1)
    two[3, 4] = one[20, 10]
    joint = fit([one, two])
    np.testing.assert_array_equal(joint.apply(two)[3, 4], joint.apply(one)[20, 10])


@pytest.mark.parametrize("value", [0.0, 0.1, 1e20])
@pytest.mark.parametrize("shape", [(7, 9, 5), (2, 2, 30)])
def test_equal_patches_are_grey(shape: tuple[int, int, int], value: float) -> None:
    patches = np.full(shape, value, np.float32) * np.arange(shape[2], dtype=np.float32)
    pca = fit([patches])
    assert pca.shares == (0, 0, 0)
    assert set(pca.apply(patches).ravel().tolist()) == {128}


def test_the_rounding_of_equal_patches_is_not_shown() -> None:
    patches = np.full((20, 20, 8), 3, np.float32)
    noise = np.random.default_rng(0).integers(-1, 2, patches.shape)
    assert np.ptp(fit([patches]).apply(patches * (1 + noise * np.float32(6e-8)))) == 0
    rounded = (patches * (1 + noise * np.float32(6e-8))).astype(np.float32)
    assert np.ptp(rounded) > 0
    assert set(fit([rounded]).apply(rounded).ravel().tolist()) == {128}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_patches_leave_the_other_channels_grey(count: int) -> None:
    patches = patch_map((1, 3, 6))[:, :count]
    pca = fit([patches])
    colours = pca.apply(patches)
    real = count - 1
    assert np.all(colours[..., real:] == 128)
    assert all(np.ptp(colours[..., channel]) == 255 for channel in range(real))
    np.testing.assert_allclose(sum(pca.shares), min(real, 1))
    np.testing.assert_array_equal(pca.components[real:], 0)


def test_two_channels_leave_blue_grey() -> None:
    patches = patch_map((6, 7, 12))[..., :2]
    assert np.all(fit([patches]).apply(patches)[..., 2] == 128)


def test_something_small_before_equal_patches_is_seen() -> None:
    patches = np.full((20, 20, 4), 2, np.float32)
    patches[3, 5] = [9, 2, 2, 2]
    red = fit([patches]).apply(patches)[..., 0]
    assert red[3, 5] == 255
    assert red.sum() == 255


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    patches = patch_map(WIDE)
    patches[2, 1, 7] = value
    with pytest.raises(UsageError, match="needs finite features"):
        fit([patches])


def test_maps_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(UsageError, match="got none"):
        fit([])
    with pytest.raises(UsageError, match=r"\(5, 4, 41\); accepted is \(h, w, 40\)"):
        fit([patch_map(WIDE), patch_map((5, 4, 41))])
    with pytest.raises(UsageError, match="not empty"):
        fit([np.zeros((0, 4, 3), np.float32)])
    pca: Pca = fit([patch_map(WIDE)])
    with pytest.raises(UsageError, match=r"accepted is \(h, w, 40\)"):
        pca.apply(np.zeros((2, 2, 4), np.float32))
