"""Every picture comes to the one size that a repository has."""

from __future__ import annotations

import numpy as np
import pytest
from head_bundle import segment_head

from clsspec_export.triton.size import fixed_preprocessing, fixed_size
from clsspec_serve.choices import Policy
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import Category, Protocol
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.transform import transform

MEAN = (0.5, 0.5, 0.5)


def preprocessing(policy: Policy, resize: tuple[int, int] | None = None) -> Preprocessing:
    return Preprocessing(
        size=(28, 42), resize=resize, policy=policy, interpolation="bilinear", mean=MEAN, std=MEAN
    )


@pytest.mark.parametrize("policy", ["squash", "crop", "fit", "short"])
@pytest.mark.parametrize("resize", [None, (32, 48), (1, 1)])
@pytest.mark.parametrize("size", [(28, 42), (56, 14)])
@pytest.mark.parametrize("image", [(30, 50), (28, 42), (3, 200), (56, 14), (90, 10)])
def test_any_picture_has_the_size(
    policy: Policy, resize: tuple[int, int] | None, size: tuple[int, int], image: tuple[int, int]
) -> None:
    fixed = fixed_preprocessing(preprocessing(policy, resize), None, size)
    pixels, geometry = transform(np.full((*image, 3), 9, np.uint8), fixed, 14)
    assert pixels.shape == (4, *size)
    assert geometry.padding == (0, 0, 0, 0)
    assert (pixels[3] == 1).all()


def test_at_its_own_size_a_picture_is_shown_as_ever() -> None:
    own = preprocessing("crop", (32, 48))
    assert fixed_preprocessing(own, None, (28, 42)) == own
    picture = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    double = fixed_preprocessing(own, None, (56, 84))
    expected = transform(picture, own, 14, size=(56, 84))
    found = transform(picture, double, 14)
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]


def test_a_head_has_its_own_way() -> None:
    protocol = Protocol(size=(20, 20), resize=(40, 60), policy="squash", interpolation="bicubic")
    head = segment_head([Category(name="a", colour=(0, 0, 0))], np.zeros((4, 1)), [0], protocol)
    fixed = fixed_preprocessing(preprocessing("crop"), head.description, (28, 42))
    assert (fixed.policy, fixed.interpolation, fixed.size) == ("squash", "bicubic", (28, 42))
    assert (fixed.resize, fixed.mean) == ((56, 126), MEAN)


def test_a_size_is_of_whole_patches() -> None:
    assert fixed_size(preprocessing("crop"), 14) == (28, 42)
    assert fixed_size(preprocessing("crop"), 14, (14, 28)) == (14, 28)
    with pytest.raises(UsageError, match=r"size 28x30 is not of whole patches; .* multiples of 14"):
        fixed_size(preprocessing("crop"), 14, (28, 30))
    with pytest.raises(UsageError, match=r"size 28x42 .* multiples of 16"):
        fixed_size(preprocessing("crop"), 16)
