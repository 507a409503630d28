"""Whether a bundle's head answers what a data set asks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.samples import (
    ClassificationDataset,
    Dataset,
    DepthDataset,
    SegmentationDataset,
)
from clsspec_serve.heads import (
    AnyHead,
    Category,
    ClassificationHead,
    DepthHead,
    SegmentationHead,
)

_PLACEHOLDER = re.compile(r"class \d+")
_WORDNET_ID = re.compile(r"n\d{8}")
"""What ImageNet's folders are called; its class number is the folder's place in their order."""


def check_match(head: AnyHead, dataset: Dataset) -> str | None:
    """A warning in one line where a depth head was made for another range of depths; or None.

    Raises UsageError for a head of another task, and where the number of classes or, as far as both
    sides have names for them, the names differ.
    """
    if isinstance(head, SegmentationHead) and isinstance(dataset, SegmentationDataset):
        _check_classes(_names(head.classes), _names(dataset.categories), dataset.name)
    elif isinstance(head, ClassificationHead) and isinstance(dataset, ClassificationDataset):
        _check_classes(head.classes, dataset.classes, dataset.name)
    elif isinstance(head, DepthHead) and isinstance(dataset, DepthDataset):
        return _range_warning(head, dataset)
    else:
        raise UsageError(f"a head for {head.task} cannot be scored on {dataset.name}")
    return None


def check_same_classes(train: ClassificationDataset, test: ClassificationDataset) -> None:
    """Raises UsageError naming the first class that only one of two data sets has."""
    odd = sorted(set(train.classes) ^ set(test.classes))
    if odd:
        side = "train on" if odd[0] in train.classes else "evaluate"
        raise UsageError(
            f"the class {odd[0]!r} is only among the pictures to {side}; "
            f"there are {len(train.classes)} and {len(test.classes)} classes, accepted are the same"
        )


def _check_classes(of_head: Sequence[str], of_data: Sequence[str], name: str) -> None:
    if len(of_head) != len(of_data):
        raise UsageError(
            f"this bundle's head has {len(of_head)} classes, {name} has {len(of_data)}; "
            "accepted is a head that was made for the data set"
        )
    if not (_has_names(of_head) and _has_names(of_data)) or _are_ids(of_head) != _are_ids(of_data):
        return
    for index, (own, asked) in enumerate(zip(of_head, of_data, strict=True)):
        if _plain(own) != _plain(asked):
            raise UsageError(
                f"class {index} of this bundle's head is {own!r}, of {name} it is {asked!r}; "
                "accepted is a head that was made for the data set"
            )


def _range_warning(head: DepthHead, dataset: DepthDataset) -> str | None:
    if (head.minimum, head.maximum) == (dataset.minimum, dataset.maximum):
        return None
    return (
        f"this bundle's head answers {head.minimum:g} to {head.maximum:g} m, {dataset.name} is "
        f"scored from {dataset.minimum:g} to {dataset.maximum:g} m"
    )


def _names(categories: Sequence[Category]) -> tuple[str, ...]:
    return tuple(category.name for category in categories)


def _has_names(classes: Sequence[str]) -> bool:
    return not all(_PLACEHOLDER.fullmatch(name) for name in classes)


def _are_ids(classes: Sequence[str]) -> bool:
    return all(_WORDNET_ID.fullmatch(name) for name in classes)


def _plain(name: str) -> str:
    """Letters and digits, without case: `Traffic_light` and `traffic light` are one."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
