from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dataset_folders import SIZE, write_imagenet, write_picture

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.datasets.imagenet import class_folders
from clsspec_serve.evaluation.datasets.published import open_dataset
from clsspec_serve.evaluation.datasets.samples import ClassificationDataset
from clsspec_serve.images import read_image


def opened(root: Path, split: str | None = None) -> ClassificationDataset:
    dataset = open_dataset("imagenet", root, split)
    assert isinstance(dataset, ClassificationDataset)
    return dataset


def refused(call: Any, error: type[Exception] = DatasetError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_imagenets_classes_are_its_folders_in_order(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    dataset = opened(tmp_path)
    assert dataset.classes == ("n01", "n02")
    assert [(sample.name, sample.label) for sample in dataset.samples] == [
        ("n01/ILSVRC_2", 0),
        ("n02/ILSVRC_1", 1),
        ("n02/ILSVRC_3", 1),
    ]
    train = opened(tmp_path, "train")
    assert train.classes == dataset.classes
    assert [(sample.name, sample.label) for sample in train.samples] == [
        ("n01/n01_7", 0),
        ("n02/n02_8", 1),
    ]


def test_a_picture_comes_with_its_class(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    sample = opened(tmp_path).samples[1]
    pixels, label = sample.load()
    assert label == 1
    assert pixels.tolist() == read_image(tmp_path / "val/n02/ILSVRC_1.JPEG").tolist()


def test_imagenet_needs_no_training_pictures_to_be_tested_on(tmp_path: Path) -> None:
    write_picture(tmp_path / "val/n01/a.JPEG", SIZE)
    assert opened(tmp_path).classes == ("n01",)


def test_any_folder_of_folders_is_a_set_of_classes(tmp_path: Path) -> None:
    for name in ("dog/1.png", "cat/2.jpg", ".cache/3.jpg"):
        write_picture(tmp_path / name, SIZE)
    (tmp_path / "README").write_text("")
    dataset = class_folders(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert [(sample.name, sample.label) for sample in dataset.samples] == [
        ("cat/2", 0),
        ("dog/1", 1),
    ]


def test_the_flat_folder_that_imagenet_comes_as_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "val/ILSVRC2012_val_00000001.JPEG", SIZE)
    line = refused(lambda: opened(tmp_path), UsageError)
    assert line == f"{tmp_path}/val: has no folders in it; accepted is one folder for each class"


def test_a_wrong_root_is_one_line(tmp_path: Path) -> None:
    line = refused(lambda: opened(tmp_path), UsageError)
    assert line.startswith(f"{tmp_path}: it holds no val; accepted is the folder that val")
    line = refused(lambda: class_folders(tmp_path / "nowhere"), UsageError)
    assert line.endswith(
        "nowhere: is not a folder; accepted is a folder with one folder for each class"
    )


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_class_that_only_one_split_has_is_named(tmp_path: Path, split: str) -> None:
    write_imagenet(tmp_path)
    write_picture(tmp_path / "train/n03/a.JPEG", SIZE)
    line = refused(lambda: opened(tmp_path, split))
    assert line == f"{tmp_path}/val/n03: is missing; {tmp_path}/train has that class"


def test_a_class_without_pictures_is_named(tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    for split in ("val", "train"):
        (tmp_path / split / "n03").mkdir()
    assert f"{tmp_path}/val/n03: has no files in it" in refused(lambda: opened(tmp_path))


@pytest.mark.parametrize("other", ["labels", "depth"])
def test_the_folders_of_another_task_are_no_classes(other: str, tmp_path: Path) -> None:
    for name in ("images", other):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="are pictures for segment or depth; accepted is one"):
        class_folders(tmp_path)
