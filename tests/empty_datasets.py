"""Data sets that have classes and no pictures."""

from __future__ import annotations

from typing import Any

from clsspec_serve.evaluation.datasets.samples import ClassificationDataset, SegmentationDataset


def segmentation(name: str, classes: tuple[Any, ...]) -> SegmentationDataset:
    return SegmentationDataset(name, classes, ())


def classification(*classes: str, name: str = "folders") -> ClassificationDataset:
    return ClassificationDataset(name, classes, ())
