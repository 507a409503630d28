"""What a data set asks for, and the heads that match it or do not: by task, classes and range."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from empty_datasets import classification, segmentation
from head_bundle import classify_head, depth_head, segment_head

from clsspec_serve.categories import categories, default_categories
from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.published import DATASETS
from clsspec_serve.evaluation.datasets.samples import DepthDataset
from clsspec_serve.evaluation.datasets.windows import eigen
from clsspec_serve.evaluation.evaluate import protocol_of
from clsspec_serve.evaluation.matching import check_match
from clsspec_serve.evaluation.opening import choose_task
from clsspec_serve.evaluation.words import DatasetName
from clsspec_serve.heads import AnyHead


def classifier(*classes: str) -> AnyHead:
    return classify_head(classes, np.zeros((4, len(classes))), np.zeros(len(classes))).description


def segmenter(classes: tuple[Any, ...]) -> AnyHead:
    return segment_head(classes, np.zeros((4, len(classes))), np.zeros(len(classes))).description


def test_every_published_data_set_can_be_asked_for() -> None:
    assert set(get_args(DatasetName)) == {"folders", *DATASETS}


def test_a_published_data_set_says_what_it_is_for() -> None:
    assert [choose_task(name, None) for name in ("ade20k", "kitti", "imagenet")] == [
        "segment",
        "depth",
        "classify",
    ]
    assert choose_task("imagenet", "knn") == choose_task("folders", "knn") == "knn"


DEPTHS = DepthDataset("sun_rgbd", 0.001, 10, (), cap=8, region=eigen, size=(480, 640))


def test_a_data_sets_size_goes_before_the_heads_and_after_ones_own() -> None:
    found = protocol_of(DEPTHS, "depth", {"window": 14})
    assert found == {
        "tasks": ("depth",),
        "flip": None,
        "window": 14,
        "size": (480, 640),
        "policy": "squash",
    }
    own = protocol_of(DEPTHS, "depth", {"size": (28, 28), "policy": "fit", "flip": False})
    assert (own["size"], own["policy"], own["flip"]) == ((28, 28), "fit", False)
    none = protocol_of(DEPTHS, "depth", {"size": None, "policy": None})
    assert (none["size"], none["policy"]) == ((480, 640), "squash")


def test_other_data_sets_leave_the_size_to_the_head() -> None:
    found = protocol_of(classification("a", "b"), "classify", {})
    assert found == {"tasks": ("classify",), "flip": None}


@pytest.mark.parametrize("name", ["ade20k", "voc2012", "cityscapes"])
def test_the_shipped_classes_match_their_data_set(name: str) -> None:
    classes = categories(name)
    assert check_match(segmenter(classes), segmentation(name, classes)) is None
    assert check_match(
        segmenter(default_categories(len(classes))), segmentation(name, classes)
    ) is (None)


def test_a_head_without_names_is_counted() -> None:
    classes = categories("cityscapes")
    unnamed = tuple(
        category.model_copy(update={"name": f"class {index}"})
        for index, category in enumerate(classes)
    )
    assert check_match(segmenter(unnamed), segmentation("cityscapes", classes)) is None
    assert check_match(classifier("class 0", "class 1"), classification("cat", "dog")) is None


def test_imagenets_folders_are_ids_and_heads_have_words() -> None:
    ids = classification("n01440764", "n01443537", name="imagenet")
    assert check_match(classifier("tench", "goldfish"), ids) is None
    assert check_match(classifier("n01440764", "n01443537"), ids) is None
    with pytest.raises(UsageError, match="class 0 of this bundle's head is 'n01443537'"):
        check_match(classifier("n01443537", "n01440764"), ids)


def test_names_differ_by_more_than_their_spelling() -> None:
    there = classification("Traffic light", "person")
    assert check_match(classifier("traffic_light", "Person"), there) is None
    with pytest.raises(UsageError, match="class 1 of this bundle's head is 'people', of folders"):
        check_match(classifier("traffic_light", "people"), there)


def test_classes_in_another_order_are_refused() -> None:
    classes = categories("voc2012")
    line = "class 1 of this bundle's head is 'bicycle', of voc2012 it is 'aeroplane'"
    swapped = (classes[0], classes[2], classes[1], *classes[3:])
    with pytest.raises(UsageError, match=line):
        check_match(segmenter(swapped), segmentation("voc2012", classes))


@pytest.mark.parametrize(
    ("head", "dataset"),
    [
        (segmenter(categories("voc2012")), DEPTHS),
        (depth_head([0] * 4).description, classification("a", "b")),
        (classifier("a", "b"), segmentation("voc2012", categories("voc2012"))),
    ],
)
def test_a_head_for_another_task_is_refused(head: AnyHead, dataset: Any) -> None:
    with pytest.raises(UsageError, match=f"a head for {head.task} cannot be scored on"):
        check_match(head, dataset)


def test_the_range_of_nyu_is_that_of_sun_rgbd_and_not_of_kitti() -> None:
    head = depth_head([0] * 4).description
    assert check_match(head, DEPTHS) is None
    assert check_match(head, DepthDataset("kitti", 0.001, 80, ())) == (
        "this bundle's head answers 0.001 to 10 m, kitti is scored from 0.001 to 80 m"
    )
