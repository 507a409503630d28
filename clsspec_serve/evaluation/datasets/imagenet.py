"""Pictures in one folder for each class: ImageNet, and any other."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.datasets.listing import PICTURES, files_by_name, find_root
from clsspec_serve.evaluation.datasets.samples import ClassificationDataset, LabelledPicture


def imagenet(root: Path, split: str) -> ClassificationDataset:
    """`SPLIT/WNID/*.JPEG`; the classes are the folders in order of name, as everywhere.

    Raises UsageError for a root of another layout; DatasetError for a folder without pictures, and
    when `val` and `train` are both there and have different classes.
    """
    accepted = "the folder that val and train are in, each with one folder for each class"
    base = find_root(root, ("",), (split,), accepted)
    dataset = class_folders(base / split, "imagenet")
    other = base / ("train" if split == "val" else "val")
    if other.is_dir():
        _check_same(dataset.classes, _folders(other), base / split, other)
    return dataset


def class_folders(root: Path, name: str = "folders") -> ClassificationDataset:
    """The pictures of each folder in the root; the classes are the folders in order of name.

    Raises UsageError for a root without folders, DatasetError for a folder without pictures.
    """
    classes = _folders(root)
    samples = [
        LabelledPicture(f"{folder}/{stem}", path, label)
        for label, folder in enumerate(classes)
        for stem, path in files_by_name(root / folder, PICTURES).items()
    ]
    return ClassificationDataset(name, classes, tuple(samples))


def _folders(root: Path) -> tuple[str, ...]:
    find_root(root, ("",), (), "a folder with one folder for each class")
    names = (entry.name for entry in root.iterdir() if entry.is_dir())
    found = tuple(sorted(name for name in names if not name.startswith(".")))
    if not found:
        raise UsageError(f"{root}: has no folders in it; accepted is one folder for each class")
    if {*found} in ({"images", "labels"}, {"images", "depth"}):
        raise UsageError(
            f"{root}: {found[0]} and {found[1]} are pictures for segment or depth; accepted is one "
            "folder for each class"
        )
    return found


def _check_same(here: tuple[str, ...], there: tuple[str, ...], one: Path, other: Path) -> None:
    odd = sorted(set(here) ^ set(there))
    if odd:
        holder, lacking = (one, other) if odd[0] in here else (other, one)
        raise DatasetError(f"{lacking / odd[0]}: is missing; {holder} has that class")
