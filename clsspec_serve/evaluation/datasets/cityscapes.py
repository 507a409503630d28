"""Cityscapes with its fine annotations: `leftImg8bit` and `gtFine`."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.categories import categories
from clsspec_serve.errors import DatasetError
from clsspec_serve.evaluation.datasets.label_maps import IGNORE
from clsspec_serve.evaluation.datasets.listing import files_by_name, find_root, pairs
from clsspec_serve.evaluation.datasets.samples import SegmentationDataset, SegmentationSample

_PICTURE = "_leftImg8bit.png"
_TRAIN_IDS = "_gtFine_labelTrainIds.png"
_LABEL_IDS = "_gtFine_labelIds.png"

# By train id, the id of the same class in the files that the data set is given out with
# (cityscapesScripts, helpers/labels.py).
_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

_OF_TRAIN_IDS = {IGNORE: IGNORE} | {train: train for train in range(len(_IDS))}
_OF_LABEL_IDS = dict.fromkeys(range(34), IGNORE) | {id: train for train, id in enumerate(_IDS)}


def cityscapes(root: Path, split: str) -> SegmentationDataset:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`, with `*_gtFine_labelTrainIds.png` below `gtFine`.

    Where there is none of the latter, the train ids are worked out from `*_gtFine_labelIds.png`.
    Raises UsageError for a root of another layout, DatasetError for files without a partner.
    """
    needs = (f"leftImg8bit/{split}", f"gtFine/{split}")
    accepted = "the folder that leftImg8bit and gtFine are in"
    base = find_root(root, ("",), needs, accepted)
    converted = any((base / needs[1]).glob(f"*/*{_TRAIN_IDS}"))
    ending, meaning = (_TRAIN_IDS, _OF_TRAIN_IDS) if converted else (_LABEL_IDS, _OF_LABEL_IDS)
    both = pairs(_by_city(base / needs[0], _PICTURE), _by_city(base / needs[1], ending))
    samples = tuple(SegmentationSample(*pair, meaning) for pair in both)
    return SegmentationDataset("cityscapes", categories("cityscapes"), samples)


def _by_city(folder: Path, ending: str) -> dict[str, Path]:
    cities = sorted(path for path in folder.iterdir() if path.is_dir())
    if not cities:
        raise DatasetError(f"{folder}: has no folders in it; accepted is one for each city")
    return {
        f"{city.name}/{name}": path
        for city in cities
        for name, path in files_by_name(city, (ending,)).items()
    }
