"""A byte for each value of a map, against the bounds of its rounding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from clsspec_serve.dataset.codecs.int8 import BeyondInt8, dequantized, quantized

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)
"""Beyond that half a step up may be beyond float32."""
MAPS = arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)),
    elements=FINITE,
)


@given(MAPS)
def test_every_value_comes_back_to_half_a_step(patches: NDArray[np.float32]) -> None:
    found = quantized("patches", patches)
    assert found.values.dtype == np.int8
    assert found.values.min() >= -127
    exact = found.values.astype(np.float64) * found.scale + found.offset
    # Half a step, and what float32 keeps of the largest value and of the step.
    room = found.scale.astype(np.float64) / 2
    room += 3e-7 * np.abs(patches).max((0, 1)) + 128 * np.finfo(np.float32).smallest_subnormal
    assert (np.abs(exact - patches) <= room).all()


@given(MAPS)
def test_reading_back_is_one_product_and_one_sum(patches: NDArray[np.float32]) -> None:
    found = quantized("patches", patches)
    back = dequantized(*found)
    assert back.dtype == np.float32
    assert back.shape == patches.shape
    assert np.isfinite(back).all()
    np.testing.assert_array_equal(back, found.values * found.scale + found.offset)


def test_each_channel_has_a_range_of_its_own() -> None:
    patches = np.zeros((2, 2, 3), np.float32)
    patches[..., 0] = [[-1, 1], [0, 0.5]]
    patches[..., 1] = [[1000, 3000], [2000, 1000]]
    patches[..., 2] = 7
    found = quantized("patches", patches)
    np.testing.assert_allclose(found.scale.ravel(), [1 / 127, 1000 / 127, 0], rtol=1e-6)
    np.testing.assert_array_equal(found.offset.ravel(), [0, 2000, 7])
    assert found.values[..., 0].ravel().tolist() == [-127, 127, 0, 64]
    assert found.values[..., 1].ravel().tolist() == [-127, 127, 0, -127]
    np.testing.assert_array_equal(dequantized(*found)[..., 2], 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_has_no_byte_is_refused(bad: float) -> None:
    patches = np.ones((2, 2, 3), np.float32)
    patches[1, 0, 2] = bad
    with pytest.raises(BeyondInt8, match="patches holds NaN or infinity"):
        quantized("patches", patches)


def test_a_range_beyond_float32_is_held() -> None:
    patches = np.array([[[3e38], [-3e38], [0]]], np.float32)
    found = quantized("patches", patches)
    assert found.values.ravel().tolist() == [127, -127, 0]
    np.testing.assert_allclose(dequantized(*found), patches, rtol=1e-6)


def test_large_values_of_one_sign_are_held() -> None:
    patches = np.array([[[3e38], [3.2e38]]], np.float32)
    np.testing.assert_allclose(dequantized(*quantized("patches", patches)), patches, rtol=1e-6)
