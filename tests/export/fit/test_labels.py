from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import write_imagenet, write_nyu, write_voc2012
from fit_pictures import fitted, save, write_classes, write_depth, write_segmentation

from clsspec_export.fit.apart import require_apart
from clsspec_export.fit.fitting import fit_head
from clsspec_export.fit.labelled import HeldOut, Labelled
from clsspec_serve.bundle import open_bundle
from clsspec_serve.categories import voc_colour
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.datasets.class_lists import read_classes
from clsspec_serve.evaluation.datasets.samples import (
    ClassificationDataset,
    DepthDataset,
    LabelledPicture,
    SegmentationDataset,
)
from clsspec_serve.loading import start
from clsspec_serve.predictor import Model

SIZE = (28, 42)


@pytest.fixture
def model(tiny_bundle: Path) -> Model:
    return start(open_bundle(tiny_bundle), engine="onnxruntime")


def segmentation(root: Path, labels: list[int], classes: str | None = None, grey: int = 0) -> Path:
    for index, label in enumerate(labels):
        save(root / "images" / f"{index}.png", np.full((*SIZE, 3), grey, np.uint8))
        save(root / "labels" / f"{index}.png", np.full(SIZE, label, np.uint8))
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def depths(root: Path, values: list[float], grey: int = 0) -> Path:
    (root / "depth").mkdir(parents=True)
    for index, value in enumerate(values):
        save(root / "images" / f"{index}.png", np.full((*SIZE, 3), grey, np.uint8))
        np.save(root / "depth" / f"{index}.npy", np.full(SIZE, value, np.float32))
    return root


def test_without_a_list_there_are_as_many_classes_as_the_ids_ask_for(tmp_path: Path) -> None:
    data = Labelled("segment").training(segmentation(tmp_path, [0, 4, 255, 2]))
    assert isinstance(data, SegmentationDataset)
    assert [category.name for category in data.categories] == [f"class {i}" for i in range(5)]


@pytest.mark.parametrize("count", [19, 21, 150])
def test_the_number_of_classes_does_not_tell_their_names(tmp_path: Path, count: int) -> None:
    data = Labelled("segment").training(segmentation(tmp_path, [0, count - 1]))
    assert isinstance(data, SegmentationDataset)
    names = [(each.name, each.colour) for each in data.categories]
    assert names == [(f"class {i}", voc_colour(i)) for i in range(count)]


def test_a_published_data_sets_classes_keep_their_names(tmp_path: Path) -> None:
    write_voc2012(tmp_path)
    data = Labelled("segment", "voc2012").training(tmp_path)
    assert isinstance(data, SegmentationDataset)
    assert (data.categories[0].name, data.categories[15].name) == ("background", "person")


@pytest.mark.parametrize("task", ["segment", "depth", "classify"])
def test_validation_pictures_that_are_trained_on_are_refused(
    tmp_path: Path, task: HeadTask
) -> None:
    write = {"segment": write_segmentation, "depth": write_depth, "classify": write_classes}[task]
    more = {} if task == "classify" else {"block": 14}
    write(tmp_path / "data", 3, size=SIZE, **more)
    write(tmp_path / "other", 3, size=SIZE, seed=1, **more)
    labelled = Labelled(task)
    training = labelled.training(tmp_path / "data")
    labelled.validation(tmp_path / "other", training)
    with pytest.raises(UsageError, match=r"is the same picture as .* which is trained on"):
        labelled.validation(tmp_path / "data", training)
    source = training.samples[1].image
    copy = labelled.validation(tmp_path / "other", training).samples[2].image
    shutil.copyfile(source, copy)
    with pytest.raises(UsageError) as refused:
        labelled.validation(tmp_path / "other", training)
    assert str(refused.value).startswith(f"{copy}: is the same picture as {source}, ")


def test_files_of_one_length_are_told_apart_by_their_content(tmp_path: Path) -> None:
    def samples(folder: str, contents: str) -> list[LabelledPicture]:
        (tmp_path / folder).mkdir()
        for index, content in enumerate(contents):
            (tmp_path / folder / f"{index}.png").write_text(content)
        paths = sorted((tmp_path / folder).iterdir())
        return [LabelledPicture(path.name, path, 0) for path in paths]

    training = samples("data", "abcd")
    require_apart(training, samples("apart", "xyz"))
    with pytest.raises(UsageError, match=r"val/1\.png: is the same picture as .*data/2\.png"):
        require_apart(training, samples("val", "xc"))


def test_a_list_beside_the_pictures_names_the_classes_and_one_that_is_given_goes_before(
    tmp_path: Path,
) -> None:
    root = segmentation(tmp_path / "data", [0, 1], "sky #70c0ff\nwide road\nsea of grass #00ff00\n")
    data = Labelled("segment").training(root)
    assert isinstance(data, SegmentationDataset)
    assert [(each.name, each.colour) for each in data.categories] == [
        ("sky", (0x70, 0xC0, 0xFF)),
        ("wide road", voc_colour(1)),
        ("sea of grass", (0, 255, 0)),
    ]
    (tmp_path / "other.txt").write_text("a\nb")
    data = Labelled("segment", classes=tmp_path / "other.txt").training(root)
    assert isinstance(data, SegmentationDataset)
    assert [each.name for each in data.categories] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a\n\nb\n", "line 2 is blank"),
        ("a\nb\na\n", "names 'a' twice"),
        ("a\nb\x1b[31m\n", "line 2 holds control characters"),
        ("a\nb #12345\n", "line 2: colour '#12345'; accepted is RRGGBB"),
    ],
)
def test_a_list_of_classes_of_another_form_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=words) as refused:
        read_classes(path)
    assert str(path) in str(refused.value)


def test_a_list_of_classes_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"gone\.txt: cannot be read"):
        read_classes(tmp_path / "gone.txt")


def test_fewer_than_two_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"one: has 1 class \(class 0\); accepted are 2"):
        Labelled("segment").training(segmentation(tmp_path / "one", [0, 0]))
    with pytest.raises(DatasetError, match="holds no id but 255"):
        Labelled("segment").training(segmentation(tmp_path / "void", [255, 255]))
    save(tmp_path / "folder" / "cat" / "1.png", np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"folder: has 1 class \(cat\)"):
        Labelled("classify").training(tmp_path / "folder")


def test_validation_pictures_have_the_classes_of_the_training(tmp_path: Path) -> None:
    training = Labelled("segment").training(segmentation(tmp_path / "a", [0, 3]))
    other = Labelled("segment").validation(segmentation(tmp_path / "b", [0, 1], grey=9), training)
    assert isinstance(training, SegmentationDataset)
    assert isinstance(other, SegmentationDataset)
    assert other.categories == training.categories


@pytest.mark.parametrize(("there", "verb"), [("dog", "has"), ("cat", "lacks")])
def test_validation_folders_of_other_classes_are_refused(
    tmp_path: Path, there: str, verb: str
) -> None:
    folders = {"a": ["bird", "cat"], "b": ["bird"] + (["cat", "dog"] if there == "dog" else [])}
    for root, names in folders.items():
        for name in names:
            save(tmp_path / root / name / "1.png", np.zeros((*SIZE, 3), np.uint8))
    training = Labelled("classify").training(tmp_path / "a")
    with pytest.raises(DatasetError, match=f"b: {verb} the class '{there}'"):
        Labelled("classify").validation(tmp_path / "b", training)


def test_a_published_data_set_gives_its_training_split_and_the_reported_one(
    tmp_path: Path,
) -> None:
    write_imagenet(tmp_path / "imagenet")
    labelled = Labelled("classify", "imagenet")
    training = labelled.training(tmp_path / "imagenet")
    assert isinstance(training, ClassificationDataset)
    assert len(training.samples) == 2
    assert len(labelled.validation(tmp_path / "imagenet", training).samples) == 3


def test_the_range_of_depths_is_the_data_sets_unless_it_is_given(tmp_path: Path) -> None:
    write_nyu(tmp_path / "nyu", "train")
    write_depth(tmp_path / "plain", 2, size=SIZE, block=14)
    for labelled, root, maximum in (
        (Labelled("depth", "nyu"), "nyu", 10),
        (Labelled("depth", "nyu", maximum=5), "nyu", 5),
        (Labelled("depth"), "plain", 10),
        (Labelled("depth", maximum=80), "plain", 80),
    ):
        data = labelled.training(tmp_path / root)
        assert isinstance(data, DepthDataset)
        assert data.maximum == maximum


def test_a_data_set_of_another_task_is_refused(tmp_path: Path) -> None:
    write_voc2012(tmp_path)
    with pytest.raises(UsageError, match="voc2012 is a data set for segment; accepted are nyu"):
        Labelled("depth", "voc2012").training(tmp_path)


def test_the_share_held_out_is_chosen_by_the_seed_and_even_over_the_classes(
    tmp_path: Path,
) -> None:
    write_classes(tmp_path, 20, size=(4, 4))
    data = Labelled("classify").training(tmp_path)
    splits = [HeldOut(0.1, seed).split(data, tmp_path) for seed in (0, 0, 1)]
    names = [[sample.name for sample in held.samples] for _, held in splits]
    assert names[0] == names[1] != names[2]
    for rest, held in splits:
        assert isinstance(held, ClassificationDataset)
        assert [sum(s.label == label for s in held.samples) for label in range(3)] == [2, 2, 2]
        both = {s.image for s in rest.samples} | {s.image for s in held.samples}
        assert len(rest.samples) == 54
        assert len(both) == 60


@pytest.mark.parametrize("share", [0.0, 1.0, -1, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path, share: float) -> None:
    data = Labelled("segment").training(segmentation(tmp_path, [0, 1]))
    with pytest.raises(UsageError, match="accepted are numbers between 0 and 1"):
        HeldOut(share, 0).split(data, tmp_path)


def test_too_few_pictures_to_hold_one_out_are_refused(tmp_path: Path) -> None:
    data = Labelled("depth").training(depths(tmp_path / "data", [1.0]))
    with pytest.raises(DatasetError, match="data: has 1 pictures, of which 1 would be held out"):
        HeldOut(0.1, 0).split(data, tmp_path / "data")
    write_classes(tmp_path / "classes", 1, size=(4, 4))
    with pytest.raises(DatasetError, match="the only picture of its class"):
        HeldOut(0.1, 0).split(
            Labelled("classify").training(tmp_path / "classes"), tmp_path / "classes"
        )


def test_one_held_out_picture_at_least(tmp_path: Path) -> None:
    data = Labelled("segment").training(segmentation(tmp_path, [0, 1, 0]))
    rest, held = HeldOut(0.01, 0).split(data, tmp_path)
    assert (len(rest.samples), len(held.samples)) == (2, 1)


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
