"""The labelled pictures that an evaluation was asked for, of a published data set or one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from clsspec_serve.errors import UsageError
from clsspec_serve.evaluation.datasets.class_lists import CLASSES, read_classes
from clsspec_serve.evaluation.datasets.imagenet import class_folders
from clsspec_serve.evaluation.datasets.plain_folders import depth_folders, segmentation_folders
from clsspec_serve.evaluation.datasets.published import DATASETS, open_dataset
from clsspec_serve.evaluation.datasets.samples import Dataset
from clsspec_serve.evaluation.words import DatasetName, EvalTask
from clsspec_serve.heads import AnyHead, DepthHead, SegmentationHead
from clsspec_serve.layers import require_head

_TRAIN = "train"


@dataclass(frozen=True)
class Labelled:
    """A data set and where it is; `split` is None for folders, which have none."""

    dataset: Dataset
    root: Path
    split: str | None


def choose_task(name: DatasetName, task: EvalTask | None) -> EvalTask:
    """What to evaluate on a data set.

    Raises UsageError for a task that the data set has no labels for, and where folders need one.
    """
    accepted: tuple[EvalTask, ...] = get_args(EvalTask)
    if name != "folders":
        own = DATASETS[name].task
        accepted = (own, "knn") if own == "classify" else (own,)
    elif task is None:
        raise UsageError(f"--dataset folders needs a --task; accepted are {', '.join(accepted)}")
    if task is not None and task not in accepted:
        raise UsageError(f"{name} has no labels for {task}; accepted is {' or '.join(accepted)}")
    return task or accepted[0]


def check_used(
    name: DatasetName,
    task: EvalTask,
    *,
    split: str | None,
    train: str | None,
    units: float | None,
    per_class: bool,
) -> None:
    """Raises UsageError for an option that would be without effect, and for one that is lacking."""
    if split is not None and name == "folders":
        raise UsageError(f"--split {split}: folders have no splits; name the split's own folder")
    if train is not None and task != "knn":
        raise UsageError(f"--train is for --task knn, not {task}")
    if train is None and task == "knn" and name == "folders":
        raise UsageError("--task knn of folders needs --train, a folder with the same classes")
    if units is not None and (name, task) != ("folders", "depth"):
        raise UsageError("--units is for --dataset folders --task depth")
    if per_class and task != "segment":
        raise UsageError(f"--per-class is for --task segment, not {task}")


def open_labelled(
    name: DatasetName,
    task: EvalTask,
    root: Path,
    heads: Sequence[AnyHead],
    *,
    split: str | None = None,
    units: float | None = None,
) -> Labelled:
    """The pictures to evaluate.

    Folders have the range of depths of the head, and the classes that `classes.txt` in them names,
    or else those of the head.

    Raises UsageError for a wrong root and a head that is lacking, DatasetError for missing files.
    """
    if name != "folders":
        chosen = split or DATASETS[name].splits[0]
        return Labelled(open_dataset(name, root, chosen), root, chosen)
    if task == "segment":
        listed = root / CLASSES
        own = require_head(heads, SegmentationHead).classes
        classes = read_classes(listed) if listed.is_file() else own
        return Labelled(segmentation_folders(root, classes), root, None)
    if task == "depth":
        head = require_head(heads, DepthHead)
        return Labelled(depth_folders(root, head.minimum, head.maximum, units), root, None)
    return Labelled(class_folders(root), root, None)


def open_train(name: DatasetName, root: Path, train: str | None) -> Labelled:
    """The training pictures for what is at `root`.

    `train`: a folder in the same layout, or a split of the root; without it the root's own train
    split. Raises as `open_labelled`.
    """
    chosen = _TRAIN if train is None else train
    if name == "folders":
        return Labelled(class_folders(Path(chosen)), Path(chosen), None)
    base, split = (root, chosen) if chosen in DATASETS[name].splits else (Path(chosen), _TRAIN)
    return Labelled(open_dataset(name, base, split), base, split)
