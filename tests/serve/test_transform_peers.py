from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from transformers import BitImageProcessor, DINOv3ViTImageProcessor
from transforms import PHOTOS, PIXELS, STATISTICS, preprocessing, timm_eval

from clsspec_serve.transform import plan, transform

# timm


@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 0.95, 1.0, 1.3])
@pytest.mark.parametrize("size", [(224, 224), (518, 518), (224, 336), (322, 196), (98, 97)])
@pytest.mark.parametrize(("policy", "mode"), [("squash", "squash"), ("crop", "center")])
@pytest.mark.parametrize("name", PHOTOS)
def test_pixels_are_timms_to_the_bit(
    name: str, policy: str, mode: str, size: tuple[int, int], crop_pct: float
) -> None:
    expected = timm_eval(PHOTOS[name], size, crop_pct, mode, "bicubic")
    resize = (int(size[0] // crop_pct), int(size[1] // crop_pct))
    settings = preprocessing(size=size, resize=resize, policy=policy)
    # With a patch of one pixel nothing is padded.
    out, geometry = transform(PHOTOS[name], settings, 1)
    np.testing.assert_array_equal(out[:3], expected)
    assert (out[3] == 1).all()
    assert geometry.input == size


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("policy", "mode"), [("squash", "squash"), ("crop", "center")])
@pytest.mark.parametrize("name", ["coffee", "tall", "small"])
def test_every_interpolation_is_timms_to_the_bit(
    name: str, policy: str, mode: str, interpolation: str
) -> None:
    expected = timm_eval(PHOTOS[name], (224, 224), 0.875, mode, interpolation)
    settings = preprocessing(resize=(256, 256), policy=policy, interpolation=interpolation)
    np.testing.assert_array_equal(transform(PHOTOS[name], settings, 16)[0][:3], expected)


@settings(max_examples=80, deadline=None)
@given(st.tuples(*[st.integers(1, 90)] * 2), st.tuples(*[st.integers(1, 60)] * 2))
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_every_size_of_picture_is_timms_to_the_bit(
    crop_pct: float, image: tuple[int, int], size: tuple[int, int]
) -> None:
    pixels = np.ascontiguousarray(PIXELS[100 : 100 + image[0], 50 : 50 + image[1]])
    expected = timm_eval(pixels, size, crop_pct, "center", "bilinear")
    resize = (int(size[0] // crop_pct), int(size[1] // crop_pct))
    settings = preprocessing(size=size, resize=resize, policy="crop", interpolation="bilinear")
    np.testing.assert_array_equal(transform(pixels, settings, 1)[0][:3], expected)


def test_timms_default_evaluation_is_reproduced_up_to_its_normalisation() -> None:
    settings = preprocessing(resize=(256, 256), policy="crop")
    expected = create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875)(
        Image.fromarray(PIXELS)
    )
    out, _ = transform(PIXELS, settings, 14)
    mean, std = (np.asarray(v, np.float32)[:, None, None] for v in STATISTICS.values())
    np.testing.assert_allclose((out[:3] / np.float32(255) - mean) / std, expected, atol=1e-6)


# Hugging Face


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "tall", "small"])
def test_dinov2s_hub_processor_agrees_within_one_level(name: str) -> None:
    processor = BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        resample=Image.Resampling.BICUBIC,
        do_normalize=False,
    )
    expected = processor(Image.fromarray(PHOTOS[name]), return_tensors="np")["pixel_values"][0]
    settings = preprocessing(resize=(256, 256), policy="crop", crop_offset="floor")
    out, _ = transform(PHOTOS[name], settings, 14)
    assert np.abs(out[:3] / 255.0 - expected).max() <= 1 / 255 + 1e-6
    # Most of them agree exactly, which a crop beside the right one would not.
    assert np.abs(out[:3] / 255.0 - expected).mean() < 0.02 / 255


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket", "tall", "small"])
def test_dinov3s_hub_processor_agrees_within_one_level(name: str) -> None:
    processor = DINOv3ViTImageProcessor(do_normalize=False)
    expected = processor(Image.fromarray(PHOTOS[name]), return_tensors="np")["pixel_values"][0]
    out, _ = transform(PHOTOS[name], preprocessing(interpolation="bilinear"), 16)
    difference = np.abs(out[:3] / 255.0 - expected)
    assert difference.max() <= 1 / 255 + 1e-6
    # Its processor does not round: about a quarter of a level on average, and no more.
    assert difference.mean() < 0.3 / 255


def test_the_crops_offset_is_half_to_even_or_rounded_down() -> None:
    # 227 - 224 = 3: half of it is 1.5.
    odd = preprocessing(resize=(227, 227))
    assert plan((500, 500), odd, 14).crop == (2, 2, 224, 224)
    floor = preprocessing(resize=(227, 227), crop_offset="floor")
    assert plan((500, 500), floor, 14).crop == (1, 1, 224, 224)
    # 225 - 224 = 1: a half is rounded to even.
    assert plan((500, 500), preprocessing(resize=(225, 225)), 14).crop[:2] == (0, 0)
