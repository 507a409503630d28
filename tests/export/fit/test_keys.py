"""What decides on features and on a training's course is part of what they are kept by."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fit_pictures import save

from clsspec_export.fit import feature_cache, fitting
from clsspec_export.fit.blueprint import Blueprint
from clsspec_export.fit.examples import Example, Examples, identify
from clsspec_export.fit.feature_cache import FeatureCache, cache_of
from clsspec_export.fit.training import Settings
from clsspec_serve.bundle import open_bundle
from clsspec_serve.evaluation.datasets.depth_maps import read_depth_array
from clsspec_serve.evaluation.datasets.samples import DepthSample, LabelledPicture
from clsspec_serve.evaluation.datasets.windows import nyu, nyu_without_border, whole
from clsspec_serve.layers import Layer
from clsspec_serve.manifest import File, LearnedPosition, Manifest, Preprocessing

Changes = dict[str, Any]


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    learned = LearnedPosition(grid=(2, 2), antialias=False)
    return open_bundle(tiny_bundle).manifest.model_copy(update={"position": learned})


def features_key(manifest: Manifest, engine: Changes, preprocessing: Changes) -> str:
    given = {"name": "onnxruntime", "precision": "fp32", **engine}
    model: Any = SimpleNamespace(manifest=manifest, engine=SimpleNamespace(**given), gpu=None)
    shown = Preprocessing.model_copy(manifest.preprocessing, update=preprocessing)
    return cache_of(Path("root"), model, shown).folder.name


@pytest.mark.parametrize(
    "engine", [{"name": "openvino"}, {"precision": "bf16"}], ids=["engine", "precision"]
)
def test_features_of_another_engine_are_others(manifest: Manifest, engine: Changes) -> None:
    assert features_key(manifest, engine, {}) != features_key(manifest, {}, {})
    assert features_key(manifest, {}, {}) == features_key(manifest, {}, {})


def test_features_of_another_version_of_an_engine_are_others(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = features_key(manifest, {}, {})
    import onnxruntime

    loaded = features_key(manifest, {}, {})
    monkeypatch.setattr(onnxruntime, "__version__", "0.0.1")
    assert features_key(manifest, {}, {}) not in (before, loaded)
    assert "onnxruntime" in sys.modules


@pytest.mark.parametrize(
    "position",
    [
        LearnedPosition(grid=(2, 2), antialias=True),
        LearnedPosition(grid=(2, 2), antialias=False, offset=0.1),
        LearnedPosition(grid=(1, 4), antialias=False),
    ],
    ids=["antialias", "offset", "grid"],
)
def test_features_under_another_rule_for_positions_are_others(
    manifest: Manifest, position: LearnedPosition
) -> None:
    other = manifest.model_copy(update={"position": position})
    assert features_key(other, {}, {}) != features_key(manifest, {}, {})


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "position.npy"])
def test_features_of_other_weights_are_others(manifest: Manifest, name: str) -> None:
    files = {**manifest.files, name: File(sha256="0" * 64, size=1)}
    other = manifest.model_copy(update={"files": files})
    assert features_key(other, {}, {}) != features_key(manifest, {}, {})


@pytest.mark.parametrize(
    "framing",
    [
        {"size": (28, 70)},
        {"resize": (99, 99)},
        {"policy": "short"},
        {"interpolation": "nearest"},
        {"crop_offset": "floor"},
        {"mean": (0.0, 0.0, 0.5)},
        {"std": (1.0, 1.0, 0.5)},
    ],
    ids=lambda framing: next(iter(framing)),
)
def test_features_of_pictures_framed_otherwise_are_others(
    manifest: Manifest, framing: Changes
) -> None:
    assert features_key(manifest, {}, framing) != features_key(manifest, {}, {})


def test_another_format_of_the_cache_has_entries_of_its_own(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = features_key(manifest, {}, {})
    monkeypatch.setattr(feature_cache, "CACHE_FORMAT", feature_cache.CACHE_FORMAT + 1)
    assert features_key(manifest, {}, {}) != before


@pytest.fixture
def sample(tmp_path: Path) -> DepthSample:
    save(tmp_path / "picture.png", np.zeros((480, 640, 3), np.uint8))
    np.save(tmp_path / "depth.npy", np.ones((480, 640), np.float32))
    read = partial(read_depth_array, units=1)
    return DepthSample("picture", tmp_path / "picture.png", tmp_path / "depth.npy", read, nyu)


def known(sample: Any) -> Example:
    (found,) = identify([sample], lambda amount: None)
    return found


@pytest.mark.parametrize("crop", [nyu_without_border, whole])
def test_another_part_of_a_picture_has_features_and_depths_of_its_own(
    sample: DepthSample, crop: Any
) -> None:
    one, other = known(sample), known(replace(sample, crop=crop))
    assert one.features != other.features
    assert one.labels != other.labels
    assert known(replace(sample, name="other")).features == one.features


def test_depths_read_in_other_units_are_others(sample: DepthSample) -> None:
    other = known(replace(sample, read=partial(read_depth_array, units=2)))
    assert other.labels != known(sample).labels
    assert other.features == known(sample).features


def run_key(manifest: Manifest, sample: DepthSample, **changes: Any) -> str:
    """The key of a training on a depth and a class, with something changed."""
    given = {
        "layers": (),
        "maximum": 10.0,
        "label": 0,
        "crop": nyu,
        "units": 1,
        "swap": False,
        "features": "f",
        "settings": Settings(1, (1e-3,), 4, 0),
        **changes,
    }
    head = Blueprint(manifest, given["layers"], False, "tests").depth(given["maximum"], 4)
    read = partial(read_depth_array, units=given["units"])
    own = [
        known(replace(sample, read=read, crop=given["crop"])),
        known(LabelledPicture("picture", sample.image, given["label"])),
    ]
    cache = FeatureCache(Path("cache"))
    sets = [Examples(cache, ["patches"], [each]) for each in own]
    if given["swap"]:
        sets.reverse()
    return fitting._run_key(head, given["settings"], sets, given["features"])


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": (Layer(0, True),)},
        {"maximum": 9.0},
        {"label": 1},
        {"crop": whole},
        {"units": 2},
        {"swap": True},
        {"features": "g"},
        {"settings": Settings(2, (1e-3,), 4, 0)},
        {"settings": Settings(1, (1e-2,), 4, 0)},
        {"settings": Settings(1, (1e-3,), 5, 0)},
        {"settings": Settings(1, (1e-3,), 4, 1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_course_has_a_checkpoint_of_its_own(
    manifest: Manifest, sample: DepthSample, changes: Changes
) -> None:
    assert run_key(manifest, sample, **changes) != run_key(manifest, sample)
    assert run_key(manifest, sample) == run_key(manifest, sample)


@pytest.mark.parametrize("module", ["torch.__version__", "platform.machine"])
def test_another_pytorch_and_another_machine_do_not_go_on(
    manifest: Manifest, sample: DepthSample, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_key(manifest, sample)
    other: str | Callable[[], str] = "0.1" if module.startswith("torch") else (lambda: "pdp11")
    monkeypatch.setattr(module, other)
    assert run_key(manifest, sample) != before
