"""Principal components of patches, against numpy's own decomposition."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clsspec_serve.dataset.codecs.pca import Patches

DEEP = 6


def maps(count: int = 5, mean: float = 0.0) -> list[NDArray[np.float32]]:
    """Maps whose channels depend on each other, with directions of different variance."""
    random = np.random.default_rng(3)
    mixing = random.standard_normal((DEEP, DEEP)) * np.geomspace(4, 0.1, DEEP)[:, None]
    return [
        (random.standard_normal((4, 3, DEEP)) @ mixing + mean).astype(np.float32)
        for _ in range(count)
    ]


def seen(given: list[NDArray[np.float32]]) -> Patches:
    patches = Patches()
    for each in given:
        patches.add(each)
    return patches


@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_components_are_the_singular_vectors_of_centred_patches(mean: float) -> None:
    given = maps(mean=mean)
    rows = np.concatenate([each.reshape(-1, DEEP) for each in given]).astype(np.float64)
    _, _, directions = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    basis = seen(given).basis(3)
    np.testing.assert_allclose(basis.mean, rows.mean(0), rtol=1e-6)
    assert basis.components.dtype == np.float32
    signs = np.sign((basis.components * directions[:3]).sum(1))
    np.testing.assert_allclose(basis.components, directions[:3] * signs[:, None], atol=1e-5)
    largest = np.abs(basis.components).argmax(1)
    assert (basis.components[np.arange(3), largest] > 0).all()


def test_the_order_of_the_pictures_does_not_matter() -> None:
    given = maps()
    before, after = seen(given).basis(2), seen(given[::-1]).basis(2)
    np.testing.assert_allclose(before.components, after.components, atol=1e-6)
    np.testing.assert_allclose(before.mean, after.mean, atol=1e-6)


def test_all_components_give_the_map_back_and_fewer_its_projection() -> None:
    given = maps()
    patches = seen(given)
    whole = patches.basis(DEEP)
    scores = whole.scores(given[0])
    assert scores.shape == (4, 3, DEEP)
    np.testing.assert_allclose(whole.patches(scores), given[0], atol=1e-4)
    few = patches.basis(2)
    back = few.patches(few.scores(given[0]))
    # What is lost is at right angles to what is kept.
    np.testing.assert_allclose((given[0] - back) @ few.components.T, 0, atol=1e-4)
    np.testing.assert_allclose(few.scores(given[0]), scores[..., :2], atol=1e-5)


def test_a_direction_without_variance_is_the_last() -> None:
    given = maps()
    for each in given:
        each[..., 2] = 5
    basis = seen(given).basis(DEEP)
    np.testing.assert_allclose(np.abs(basis.components[-1]), np.eye(DEEP)[2], atol=1e-6)
    assert basis.mean[2] == 5
