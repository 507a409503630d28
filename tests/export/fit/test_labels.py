"""Labels of which a fit can learn nothing are refused, and what is odd about others is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cached_features import SIZE
from fit_pictures import fitted, write_segmentation
from plain_labels import depths, segmentation

from clsspec_export.fit.fitting import fit_head
from clsspec_export.fit.labelled import Labelled
from clsspec_serve.bundle import open_bundle
from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model


@pytest.fixture
def model(tiny_bundle: Path) -> Model:
    return start(open_bundle(tiny_bundle), engine="onnxruntime")


def test_labels_that_are_all_ignored_are_refused(model: Model, tmp_path: Path) -> None:
    root = segmentation(tmp_path / "data", [255] * 4, "a\nb\n")
    with pytest.raises(DatasetError, match=r"labels/\d\.png: has no pixel of a class"):
        fitted(model, "segment", root, tmp_path / "cache", size=SIZE)


def test_validation_labels_that_are_all_ignored_are_refused(model: Model, tmp_path: Path) -> None:
    root = segmentation(tmp_path / "data", [0, 1])
    val = segmentation(tmp_path / "val", [255, 255], grey=9)
    with pytest.raises(DatasetError, match=r"val/labels/0\.png: .* any other validation picture"):
        fitted(model, "segment", root, tmp_path / "cache", size=SIZE, val=val)


def test_labels_of_one_class_are_refused(model: Model, tmp_path: Path) -> None:
    root = segmentation(tmp_path / "data", [1] * 4, "a\nb\n")
    with pytest.raises(DatasetError, match="labels: the training labels are all of one class, 'b'"):
        fitted(model, "segment", root, tmp_path / "cache", size=SIZE)


def test_depths_of_another_scale_are_refused_with_the_range_that_was_seen(
    model: Model, tmp_path: Path
) -> None:
    root = depths(tmp_path / "data", [1500, 4000, 1500, 4000])
    val = depths(tmp_path / "val", [1.0], grey=9)
    with pytest.raises(
        DatasetError, match=r"0\.npy: .* depths from 1500 to 4000 m, none within .* --units"
    ):
        fitted(model, "depth", root, tmp_path / "cache", size=SIZE, val=val)


@pytest.mark.parametrize("value", [0.0, float("nan"), -3.0, float("inf")])
def test_depths_of_which_none_was_measured_are_refused(
    model: Model, tmp_path: Path, value: float
) -> None:
    root = depths(tmp_path / "data", [value] * 4)
    with pytest.raises(DatasetError, match=r"\d\.npy: has no depth above 0"):
        fitted(model, "depth", root, tmp_path / "cache", size=SIZE)


def test_pictures_without_a_label_that_counts_are_named_and_change_nothing_else(
    model: Model, tmp_path: Path
) -> None:
    def run(name: str, more: list[int]) -> tuple[list[str], object]:
        root = segmentation(tmp_path / name, [0, 1, 2, *more], "a\nb\nc\nd\n")
        training = Labelled("segment").training(root)
        said: list[str] = []
        from clsspec_export.fit.blueprint import Blueprint
        from clsspec_export.fit.fitting import Storage
        from clsspec_export.fit.training import Settings

        found = fit_head(
            model,
            Blueprint(model.manifest, (), False, "tests", size=SIZE).head(training, 1),
            training.samples,
            training.samples,
            Settings(1, (1e-3,), 8, 0),
            Storage(tmp_path / "cache", 10**9),
            report=said.append,
        )
        return said, found.figure

    said, figure = run("few", [255])
    assert f"1 training pictures have no label that counts, such as {tmp_path}" in said[0]
    assert said[0].endswith("labels/3.png")
    assert said[1] == "3 of 4 classes occur in the training labels"
    assert run("none", [])[0] == said[1:2]
    assert figure is not None


def test_mistaken_units_are_hinted_at(model: Model, tmp_path: Path) -> None:
    from clsspec_export.fit.examples import Examples
    from clsspec_export.fit.supervision import check_targets

    class Given(Examples):
        def __init__(self, targets: list[object]) -> None:
            self._targets = [np.asarray(each, np.float32) for each in targets]

        def target(self, index: int) -> np.ndarray:
            return self._targets[index]

    data = Labelled("depth").training(depths(tmp_path / "data", [1.0, 2.0]))
    from clsspec_export.fit.blueprint import Blueprint

    head = Blueprint(model.manifest, (), False, "tests").head(data, 4)
    said: list[str] = []
    files = [Path("a"), Path("b")]
    check_targets(Given([[[2.0, 0.0]], [[40.0, np.nan]]]), files, head, "training", said.append)
    assert said == [
        "depths from 2 to 40 m in the training pictures, 50.0 % within 0.001 to 10 m; see --units "
        "and --max-depth",
        "1 training pictures have no label that counts, such as b",
    ]
    said.clear()
    check_targets(Given([[[2.0, 0.0]], [[4.0, np.nan]]]), files, head, "training", said.append)
    assert said == ["depths from 2 to 4 m in the training pictures, 100.0 % within 0.001 to 10 m"]


def test_no_pictures_are_refused(model: Model, tmp_path: Path) -> None:
    write_segmentation(tmp_path / "data", 2, size=SIZE, block=14)
    data = Labelled("segment").training(tmp_path / "data")
    from clsspec_export.fit.blueprint import Blueprint
    from clsspec_export.fit.fitting import Storage
    from clsspec_export.fit.training import Settings

    head = Blueprint(model.manifest, (), False, "tests").head(data, 1)
    settings, storage = Settings(1, (1e-3,), 4, 0), Storage(tmp_path / "cache", 10**9)
    with pytest.raises(UsageError, match="no pictures to validate with"):
        fit_head(model, head, data.samples, (), settings, storage)
    with pytest.raises(UsageError, match="no pictures to train on"):
        fit_head(model, head, (), data.samples, settings, storage)
