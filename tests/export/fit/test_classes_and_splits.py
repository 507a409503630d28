"""Whence a fit has its classes, and the pictures that it trains on and validates with."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cached_features import SIZE
from dataset_folders import write_imagenet, write_nyu, write_voc2012
from fit_pictures import save, write_classes, write_depth, write_segmentation
from plain_labels import depths, segmentation

from clsspec_export.fit.apart import require_apart
from clsspec_export.fit.labelled import HeldOut, Labelled
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
