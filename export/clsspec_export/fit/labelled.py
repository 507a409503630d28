"""The labelled pictures that a head is trained on and looked at with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clsspec_export.fit.apart import require_apart
from clsspec_export.heads.describe import NEAREST
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import DatasetError, UsageError
from clsspec_serve.evaluation.datasets.class_lists import CLASSES, numbered, read_classes
from clsspec_serve.evaluation.datasets.imagenet import class_folders
from clsspec_serve.evaluation.datasets.label_maps import IGNORE, read_ids
from clsspec_serve.evaluation.datasets.plain_folders import depth_folders, segmentation_folders
from clsspec_serve.evaluation.datasets.published import DATASETS, open_dataset
from clsspec_serve.evaluation.datasets.samples import (
    Dataset,
    DepthDataset,
    LabelledPicture,
    SegmentationDataset,
)

TRAIN = "train"
FARTHEST = 10.0
"""Where the range of depths ends, in metres, unless said otherwise: indoors, as in NYUv2."""


@dataclass(frozen=True)
class Labelled:
    """How pictures are labelled.

    `dataset`: a published data set, or None for plain folders. `classes`: the file of a plain
    segmentation's classes. `units`, `maximum`: of a depth's; see `depth_folders`.
    """

    task: HeadTask
    dataset: str | None = None
    classes: Path | None = None
    units: float | None = None
    maximum: float | None = None

    def training(self, root: Path) -> Dataset:
        """The pictures to train on; of a published data set its `train` split.

        Raises `UsageError` for a root of another layout, a data set of another task and one
        without such a split; `DatasetError` for missing and surplus files, and for fewer than two
        classes.
        """
        if self.dataset is not None:
            return self._published(self.dataset, root, TRAIN)
        if self.task == "segment":
            data = segmentation_data(root, self.classes)
            _require_classes([category.name for category in data.categories], root)
            return data
        if self.task == "depth":
            return self._depth(root)
        folders = class_folders(root)
        _require_classes(folders.classes, root)
        return folders

    def validation(self, root: Path, training: Dataset) -> Dataset:
        """Pictures with the labels of the training; of a published data set the reported split.

        Raises as `training`, `DatasetError` for other classes, and for folders also `UsageError`
        for a picture that is to be trained on.
        """
        if self.dataset is not None:
            return self._published(self.dataset, root, None)
        found = self._folders(root, training)
        require_apart(training.samples, found.samples)
        return found

    def _folders(self, root: Path, training: Dataset) -> Dataset:
        if isinstance(training, SegmentationDataset):
            return segmentation_folders(root, training.categories)
        if isinstance(training, DepthDataset):
            return self._depth(root)
        folders = class_folders(root)
        _require_same(training.classes, folders.classes, root)
        return folders

    def _depth(self, root: Path) -> DepthDataset:
        maximum = FARTHEST if self.maximum is None else self.maximum
        return depth_folders(root, NEAREST, maximum, self.units)

    def _published(self, name: str, root: Path, split: str | None) -> Dataset:
        if name in DATASETS and DATASETS[name].task != self.task:
            fitting = ", ".join(each for each, own in DATASETS.items() if own.task == self.task)
            raise UsageError(
                f"{name} is a data set for {DATASETS[name].task}; accepted are {fitting}"
            )
        data = open_dataset(name, root, split)
        if isinstance(data, DepthDataset) and self.maximum is not None:
            return replace(data, maximum=self.maximum)
        return data


def segmentation_data(root: Path, classes: Path | None) -> SegmentationDataset:
    """`images` and `labels` in a folder; see `segmentation_folders`.

    The classes are those of the file, else of `classes.txt` in the root, else as many as the
    highest id in the labels asks for. Raises also `DatasetError` for such a file.
    """
    beside = root / CLASSES
    if classes is not None or beside.is_file():
        return segmentation_folders(root, read_classes(beside if classes is None else classes))
    everything = segmentation_folders(root, numbered(IGNORE))
    highest = max((_highest(sample.label) for sample in everything.samples), default=-1)
    if highest < 0:
        raise DatasetError(
            f"{root / 'labels'}: holds no id but {IGNORE}, which is not scored; accepted are ids "
            "of classes"
        )
    return segmentation_folders(root, numbered(highest + 1))


@dataclass(frozen=True)
class HeldOut:
    """A share of the pictures, chosen by a seed, that is looked at and not learned from."""

    share: float
    seed: int

    def split(self, data: Dataset, root: Path) -> tuple[Dataset, Dataset]:
        """The rest and the share, at least one picture; of each class about the same share.

        Raises `UsageError` for a share outside of 0..1, `DatasetError` where nothing is left of a
        class or of the whole.
        """
        if not 0 < self.share < 1:
            raise UsageError(
                f"a validation share of {self.share}; accepted are numbers between 0 and 1, or "
                "validation pictures with --val"
            )
        samples = data.samples
        count = max(round(self.share * len(samples)), 1)
        if count >= len(samples):
            raise DatasetError(
                f"{root}: has {len(samples)} pictures, of which {count} would be held out; add "
                "pictures, or give others with --val"
            )
        order = np.random.default_rng(self.seed).permutation(len(samples)).tolist()
        order.sort(key=lambda index: _class_of(samples[index]))
        # Evenly over the order by class, so that each class gives its share.
        held = {order[(2 * n + 1) * len(order) // (2 * count)] for n in range(count)}
        rest = [index for index in range(len(samples)) if index not in held]
        left = {_class_of(samples[index]) for index in rest}
        for index in sorted(held):
            if _class_of(samples[index]) not in left:
                raise DatasetError(
                    f"{samples[index].image}: is held out and the only picture of its class; add "
                    "pictures, or give others with --val"
                )
        return _only(data, rest), _only(data, sorted(held))


def _only(data: Dataset, indices: Sequence[int]) -> Dataset:
    # A type checker does not see that the samples of a data set fit it.
    samples: Any = tuple(data.samples[index] for index in indices)
    return replace(data, samples=samples)


def _class_of(sample: object) -> int:
    return sample.label if isinstance(sample, LabelledPicture) else 0


def _highest(label: Path) -> int:
    ids = read_ids(label, {stored: stored for stored in range(IGNORE + 1)})
    return int(np.max(ids, where=ids != IGNORE, initial=0)) if (ids != IGNORE).any() else -1


def _require_classes(names: Sequence[str], root: Path) -> None:
    if len(names) < 2:
        raise DatasetError(
            f"{root}: has {len(names)} class ({', '.join(names)}); accepted are 2 and more"
        )


def _require_same(training: Sequence[str], validation: Sequence[str], root: Path) -> None:
    odd = sorted(set(training) ^ set(validation))
    if odd:
        verb = "lacks" if odd[0] in training else "has"
        raise DatasetError(f"{root}: {verb} the class {odd[0]!r}; accepted are those of DATA")
