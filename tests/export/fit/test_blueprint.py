from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clsspec_export.fit.blueprint import Blueprint
from clsspec_export.fit.examples import Extractor, identify
from clsspec_serve.bundle import open_bundle
from clsspec_serve.categories import categories
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.evaluation.datasets.samples import SegmentationSample
from clsspec_serve.heads import Protocol
from clsspec_serve.loading import start
from clsspec_serve.manifest import Manifest


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    return open_bundle(tiny_bundle).manifest


def shown(manifest: Manifest, task: str, **changes: Any) -> Protocol:
    blueprint = Blueprint(manifest, (), False, "tests", **changes)
    if task == "classify":
        return blueprint.classification(("a", "b")).protocol
    if task == "segment":
        return blueprint.segmentation(categories("voc2012")).protocol
    return blueprint.depth(10, 4).protocol


@pytest.mark.parametrize("name", ["ade20k", "voc2012", "cityscapes"])
def test_published_segmentations_are_trained_at_512_and_answer_in_windows(
    manifest: Manifest, name: str
) -> None:
    found = shown(manifest, "segment", dataset=name)
    assert (found.size, found.policy, found.interpolation) == ((512, 512), "short", "bilinear")
    assert (found.window, found.stride, found.flip) == (512, 341, False)


@pytest.mark.parametrize(("name", "side"), [("nyu", 480), ("sun_rgbd", 480), ("kitti", 352)])
def test_published_depths_are_trained_at_their_own_height(
    manifest: Manifest, name: str, side: int
) -> None:
    found = shown(manifest, "depth", dataset=name)
    assert (found.size, found.policy, found.window) == ((side, side), "short", None)
    assert found.flip


@pytest.mark.parametrize("task", ["segment", "depth"])
@pytest.mark.parametrize(("patch", "side"), [(14, 518), (16, 512), (8, 512), (32, 512)])
def test_folders_are_trained_near_512_in_whole_patches(
    manifest: Manifest, task: str, patch: int, side: int
) -> None:
    architecture = manifest.architecture.model_copy(update={"patch_size": patch})
    own = manifest.model_copy(update={"architecture": architecture})
    found = shown(own, task)
    assert (found.size, found.policy, found.window) == ((side, side), "fit", None)
    assert found.interpolation == manifest.preprocessing.interpolation


def test_a_classification_is_trained_as_the_backbone_was(manifest: Manifest) -> None:
    own = manifest.preprocessing
    for dataset in (None, "imagenet"):
        found = shown(manifest, "classify", dataset=dataset)
        assert (found.size, found.resize, found.policy) == (own.size, own.resize, own.policy)


@pytest.mark.parametrize("dataset", [None, "ade20k"])
def test_a_size_and_a_policy_that_are_given_go_before(
    manifest: Manifest, dataset: str | None
) -> None:
    found = shown(manifest, "segment", dataset=dataset, size=(28, 42), policy="squash")
    assert (found.size, found.policy, found.window) == ((28, 42), "squash", None)
    found = shown(manifest, "segment", dataset=dataset, size=(28, 42))
    assert (found.size, found.window) == ((28, 42), None)
    assert found.policy == ("fit" if dataset is None else "short")


def test_training_sees_the_whole_picture_where_the_head_has_windows(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """512 pixels high and 1024 wide, padded to patches of 14; the padding has no class."""
    from fit_pictures import save

    model = start(open_bundle(tiny_bundle), engine="onnxruntime")
    save(tmp_path / "picture.png", np.zeros((64, 128, 3), np.uint8))
    save(tmp_path / "label.png", np.ones((64, 128), np.uint8))
    sample = SegmentationSample(
        "picture", tmp_path / "picture.png", tmp_path / "label.png", {1: 1, 255: IGNORE}
    )
    blueprint = Blueprint(model.manifest, (), False, "tests", dataset="voc2012")
    extractor = Extractor(model, blueprint.segmentation(categories("voc2012")), tmp_path / "cache")
    known = identify([sample], lambda amount: None)
    found = extractor.examples(known, batch_size=1, advance=lambda amount: None)
    (patches,) = found.features(0)
    assert patches.shape[:2] == (37, 74)
    target = found.target(0)
    assert target.shape == (4 * 37, 4 * 74)
    # 3 of 518 rows and 6 of 1036 columns are padding on each side, cells are 3.5 pixels wide.
    assert (target[0] == IGNORE).all()
    assert (target[1:-1, 2:-2] == 1).all()
    assert (target[:, :2] == IGNORE).all()
