from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from clsspec_serve.delivery import Delivery
from clsspec_serve.errors import UsageError

RANDOM = np.random.default_rng(0)


def patches(height: int, width: int, channels: int = 5) -> NDArray[np.float32]:
    return RANDOM.normal(size=(height, width, channels)).astype(np.float32)


def test_without_wishes_everything_stays_as_it_is() -> None:
    arrays = {"cls": patches(1, 1)[0, 0], "patches": patches(2, 3), "depth": patches(4, 4)[..., 0]}
    found = Delivery().apply(arrays)
    assert all(found[name] is arrays[name] for name in arrays)


@pytest.mark.parametrize(("height", "width", "pool"), [(4, 6, 2), (5, 7, 2), (5, 7, 3), (2, 3, 9)])
def test_pooling_is_the_mean_of_the_patches_that_there_are(
    height: int, width: int, pool: int
) -> None:
    fine = patches(height, width)
    coarse = Delivery(pool=pool).apply({"patches_5_raw": fine})["patches_5_raw"]
    assert coarse.shape == (-(-height // pool), -(-width // pool), 5)
    assert coarse.dtype == np.float32
    for row in range(coarse.shape[0]):
        for column in range(coarse.shape[1]):
            block = fine[row * pool : (row + 1) * pool, column * pool : (column + 1) * pool]
            exact = block.astype(np.float64).mean((0, 1))
            np.testing.assert_allclose(coarse[row, column], exact, rtol=1e-6)


def test_normalized_features_have_length_one_and_zeros_stay() -> None:
    fine = patches(3, 4)
    fine[1, 2] = 0
    found = Delivery(normalize=True).apply({"patches": fine, "cls": fine[0, 0] * 7})
    lengths = np.linalg.norm(found["patches"].astype(np.float64), axis=-1)
    assert lengths[1, 2] == 0
    lengths[1, 2] = 1
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)
    np.testing.assert_allclose(found["cls"], found["patches"][0, 0], rtol=1e-6)


def test_pooling_comes_before_normalizing() -> None:
    fine = patches(4, 4)
    both = Delivery(pool=2, normalize=True).apply({"patches": fine})["patches"]
    pooled = Delivery(pool=2).apply({"patches": fine})
    np.testing.assert_array_equal(both, Delivery(normalize=True).apply(pooled)["patches"])


def test_half_precision_is_the_nearest_and_leaves_ids_alone() -> None:
    ids = np.array([[1, 2]], np.uint8)
    depth = np.array([[1.2345, np.nan]], np.float32)
    found = Delivery(dtype="float16").apply({"segment": ids, "depth": depth, "cls": depth[0, :1]})
    assert found["segment"] is ids
    assert found["depth"].dtype == found["cls"].dtype == np.float16
    np.testing.assert_array_equal(found["depth"], depth.astype(np.float16))


def test_what_half_precision_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="cls reaches 70000, which float16 cannot hold"):
        Delivery(dtype="float16").apply({"cls": np.array([1, -70000], np.float32)})


def test_heads_answers_are_neither_pooled_nor_normalized() -> None:
    depth = np.abs(patches(4, 4)[..., 0])
    logits = patches(1, 1)[0, 0]
    found = Delivery(pool=2, normalize=True).apply({"depth": depth, "classify": logits})
    assert found["depth"] is depth
    assert found["classify"] is logits


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="pool is 0; accepted are 1 and more"):
        Delivery(pool=0)
