"""The features and labels that a training is given, and the pictures that have none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cached_features import SIZE, Spied, examples
from fit_pictures import fitted, save, write_classes

from clsspec_export.fit.blueprint import Blueprint
from clsspec_export.fit.examples import Extractor
from clsspec_export.fit.labelled import Labelled
from clsspec_serve.errors import DatasetError, ImageError
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.layers import Layer


def test_the_features_kept_are_those_of_the_predictor(
    spied: Spied, root: Path, cache: Path
) -> None:
    data = Labelled("segment").training(root)
    blueprint = Blueprint(spied.model.manifest, (Layer(0, False),), True, "tests", size=SIZE)
    extractor = Extractor(spied.model, blueprint.head(data, 1), cache)
    found = examples(extractor, data.samples, batch_size=3)
    for index, sample in enumerate(data.samples):
        expected = spied.model(sample.image, layers=(Layer(0, False),), size=SIZE, policy="fit")
        patches, cls = found.features(index)
        np.testing.assert_array_equal(patches, expected.arrays["patches_0_raw"])
        np.testing.assert_array_equal(cls, expected.arrays["cls_0_raw"])
        assert isinstance(patches, np.memmap)
        assert found.target(index).shape == (8, 12)


def test_a_classification_keeps_the_mean_patch_alone(
    spied: Spied, tmp_path: Path, cache: Path
) -> None:
    write_classes(tmp_path / "data", 2, size=SIZE)
    data = Labelled("classify").training(tmp_path / "data")
    blueprint = Blueprint(spied.model.manifest, (), True, "tests")
    extractor = Extractor(spied.model, blueprint.head(data, 1), cache)
    found = examples(extractor, data.samples, batch_size=3)
    expected = spied.model(data.samples[5].image)
    cls, mean = found.features(5)
    np.testing.assert_array_equal(cls, expected.cls)
    np.testing.assert_allclose(mean[0, 0], expected.patches.mean(axis=(0, 1)), rtol=1e-6)
    assert int(found.target(5)) == 2
    assert not list(cache.rglob("*.patches.npy"))


def test_pictures_of_several_sizes_keep_their_own_features(
    spied: Spied, root: Path, cache: Path
) -> None:
    for index, width in enumerate((84, 28, 84)):
        save(root / "images" / f"0{index}.png", np.full((28, width, 3), 50 * index, np.uint8))
        save(root / "labels" / f"0{index}.png", np.full((28, width), index, np.uint8))
    data = Labelled("segment").training(root)
    blueprint = Blueprint(spied.model.manifest, (), False, "tests", size=SIZE)
    extractor = Extractor(spied.model, blueprint.head(data, 1), cache)
    done: list[int] = []
    found = examples(extractor, data.samples, batch_size=8, advance=done.append)
    assert sum(done) == 8
    for index, sample in enumerate(data.samples):
        expected = spied.model(sample.image, size=SIZE, policy="fit").patches
        # ONNX Runtime's kernels round differently by the number of pictures in a batch.
        np.testing.assert_allclose(found.features(index)[0], expected, rtol=1e-6)


def test_a_picture_that_cannot_be_read_ends_the_run_in_its_name(
    spied: Spied, root: Path, cache: Path
) -> None:
    (root / "images" / "05.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"05\.png: is not an image"):
        fitted(spied.model, "segment", root, cache, size=SIZE)


def test_a_label_with_an_unknown_id_ends_the_run_in_its_name(
    spied: Spied, root: Path, cache: Path
) -> None:
    (root / "classes.txt").write_text("red\ngreen\n")
    with pytest.raises(DatasetError, match=r"labels/0\d\.png: has the id 2 .* accepted are 0..1"):
        fitted(spied.model, "segment", root, cache, size=SIZE)


def test_ignored_pixels_stay_ignored(spied: Spied, root: Path, cache: Path) -> None:
    ids = np.zeros(SIZE, np.uint8)
    ids[:14] = IGNORE
    save(root / "labels" / "00.png", ids)
    data = Labelled("segment").training(root)
    head = Blueprint(spied.model.manifest, (), False, "tests", size=SIZE).head(data, 1)
    extractor = Extractor(spied.model, head, cache)
    found = examples(extractor, data.samples, batch_size=2)
    np.testing.assert_array_equal(found.target(0)[:, 0], [IGNORE] * 4 + [0] * 4)
