"""indoor-tiny as it is shipped: whole, the same on every engine, and at work on a photograph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from command_line import Clsspec
from PIL import Image

from clsspec_serve.bundle import Bundle, describe_folder, open_bundle
from clsspec_serve.models import EMBEDDED
from clsspec_serve.verification import uncovered_heads, verify_engines
from indoor_tiny.card import card

FIGURES = Path(__file__).parents[2] / "recipes" / "default_model" / "figures" / "specialized.json"
MOST_BYTES = 16_000_000
"""Every `pip install` downloads them."""

INDOORS, _, DISPARITY = skimage.data.stereo_motorcycle()
"""A garage, photographed for the Middlebury benchmark of 2014; its disparities in pixels."""
FOCAL_LENGTH, BASELINE, OFFSET = 994.978, 0.193001, 31.086
"""Of that picture: pixels, metres, pixels."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(EMBEDDED)


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(INDOORS).save("photo.jpg", quality=95)
    return "photo.jpg"


def test_it_is_whole_and_fits_into_a_wheel(bundle: Bundle) -> None:
    # Opening it has compared every hash; here, that nothing else lies beside.
    assert describe_folder(EMBEDDED) == bundle.manifest.files
    assert sum(file.size for file in bundle.manifest.files.values()) <= MOST_BYTES


def test_it_is_what_its_name_and_the_paper_say(bundle: Bundle) -> None:
    manifest, backbone = bundle.manifest, bundle.manifest.architecture
    assert manifest.name == "indoor-tiny"
    assert (backbone.embed_dim, backbone.depth, backbone.patch_size) == (192, 12, 16)
    assert backbone.attention_bias
    split = backbone.specialization
    assert split is not None
    assert split.norms
    assert split.final_norm
    assert split.layer_scale
    assert split.qkv_blocks == backbone.depth // 3
    assert [head.task for head in manifest.heads] == ["segment", "depth"]
    assert manifest.storage == "fp16"
    assert manifest.provenance.licence == "Apache-2.0"


def test_it_does_not_tell_where_it_was_made(bundle: Bundle) -> None:
    sources = [head.source.name for head in bundle.manifest.heads]
    assert [name for name in (bundle.manifest.provenance.source, *sources) if "/" in name] == []


def test_its_card_says_what_was_measured(bundle: Bundle) -> None:
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    assert (bundle.path / "README.md").read_text(encoding="utf-8") == card(figures)


def test_every_engine_gives_the_features_and_answers_that_pytorch_gave(bundle: Bundle) -> None:
    reports = [report for report in verify_engines(bundle) if report.precision == "fp32"]
    assert {report.engine for report in reports} == {"onnxruntime", "openvino"}
    assert uncovered_heads(bundle) == []
    for report in reports:
        outputs = {difference.output for difference in report.differences}
        assert outputs == {"cls", "patches", "segment", "depth"}
        assert max(difference.relative for difference in report.differences) < 2e-5


def test_extract_needs_no_model(photo: str, clsspec: Clsspec) -> None:
    result = clsspec("extract", photo, "--out", "feats.npy")
    assert result.code == 0, result.err
    assert result.err.startswith("model: indoor-tiny, the embedded one (trained on ")
    features = np.load("feats.npy")
    assert features.ndim == 3
    assert features.shape[2] == 192
    assert features.std(axis=(0, 1)).min() > 0


def test_segment_needs_no_model(photo: str, clsspec: Clsspec) -> None:
    result = clsspec("segment", photo, "--out", "mask.png")
    assert result.code == 0, result.err
    mask = np.asarray(Image.open("mask.png"))
    assert mask.shape == INDOORS.shape[:2]
    assert len(np.unique(mask)) > 2


def test_depth_needs_no_model_and_orders_a_real_scene_by_distance(
    photo: str, clsspec: Clsspec
) -> None:
    result = clsspec("depth", photo, "--out", "depth.npy")
    assert result.code == 0, result.err
    found = np.load("depth.npy")
    assert found.shape == INDOORS.shape[:2]
    measured = np.isfinite(DISPARITY) & (DISPARITY > 0)
    true = FOCAL_LENGTH * BASELINE / (DISPARITY[measured] + OFFSET)
    assert np.corrcoef(found[measured], true)[0, 1] > 0.5
