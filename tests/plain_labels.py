"""Pictures of one grey, each with one label all over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cached_features import SIZE
from fit_pictures import save


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
