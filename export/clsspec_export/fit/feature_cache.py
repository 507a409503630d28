"""Features and labels on disk, so that a second training run starts at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clsspec_serve.bundle import GRAPH, POSITION
from clsspec_serve.engines.select import engine_version
from clsspec_serve.errors import DatasetError, OutputError
from clsspec_serve.manifest import Preprocessing
from clsspec_serve.predictor import Model

Array = NDArray[Any]

CACHE_FORMAT = 1
"""Raised when the same picture would lead to other features or targets, or to other files."""


@dataclass(frozen=True)
class FeatureCache:
    """One `.npy` file for each array of each picture, which appears whole or not at all.

    `folder` belongs to one model on one engine and one way to frame pictures. Pictures and labels
    are known by their content, not by path and time: files that are moved, copied or renamed are
    found again, and one that was edited in place is not mistaken for what it was. It costs one
    reading of the files, a small part of what decoding them would.
    """

    folder: Path

    def path(self, key: str, name: str) -> Path:
        """Where an array lies; `key` is a sha256 in hex."""
        return self.folder / key[:2] / f"{key}.{name}.npy"

    def has(self, key: str, names: Iterable[str]) -> bool:
        """Whether all of these arrays are there, and whole."""
        return all(self._whole(self.path(key, name)) for name in names)

    def load(self, key: str, name: str) -> Array:
        """The array, mapped from disk rather than read. Raises `OutputError`."""
        path = self.path(key, name)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise OutputError(f"{path} of the cache cannot be read; delete it: {error}") from error

    def store(self, key: str, name: str, value: Array) -> None:
        """Write an array; raises `OutputError`.

        A rename makes it appear whole. It is not forced to the disk, which would take longer than
        the features: what a power cut damages does not load, and is computed again.
        """
        path = self.path(key, name)
        part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("wb") as stream:
                    np.save(stream, value, allow_pickle=False)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error

    def require_room(self, lacking: int) -> None:
        """Raise `OutputError` where so many bytes, still to be written, exceed the free space."""
        existing = next(each for each in (self.folder, *self.folder.parents) if each.exists())
        free = shutil.disk_usage(existing).free
        if lacking > free:
            raise OutputError(
                f"the features take about {_gigabytes(lacking)} more, and {existing} has "
                f"{_gigabytes(free)} free; choose another folder with --cache"
            )

    def _whole(self, path: Path) -> bool:
        try:
            np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return False
        return True


def cache_of(root: Path, model: Model, preprocessing: Preprocessing) -> FeatureCache:
    """The cache below `root` for what decides on a picture's features.

    That is the backbone's files, how its positions are resized, the engine with its version and
    precision, and how pictures are framed.
    """
    files = model.manifest.files
    state = {
        "format": CACHE_FORMAT,
        "files": {
            name: file.sha256
            for name, file in sorted(files.items())
            if name.startswith(GRAPH) or name == POSITION
        },
        "position": model.manifest.position.model_dump(mode="json"),
        "engine": [
            *(model.engine.name, engine_version(model.engine.name), model.engine.precision),
            *(() if model.gpu is None else (model.gpu.name,)),
        ],
        "preprocessing": preprocessing.model_dump(mode="json"),
    }
    return FeatureCache(root / "features" / digest(json.dumps(state, sort_keys=True)))


def digest(*parts: str | Path) -> str:
    """The sha256, in hex, of texts and of files' contents. Raises `DatasetError` for a file."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            own = hashlib.sha256(part.encode())
        else:
            try:
                with part.open("rb") as stream:
                    own = hashlib.file_digest(stream, "sha256")
            except OSError as error:
                raise DatasetError(f"{part}: cannot be read: {error.strerror}") from error
        # Hashes of one length each, so that no two lists of parts run together to the same bytes.
        total.update(own.digest())
    return total.hexdigest()


def require_within(total: int, bound: int) -> None:
    """Raise `OutputError` where all arrays of a data set take more bytes than the bound."""
    if total > bound:
        raise OutputError(
            f"the features take about {_gigabytes(total)}, more than the bound of "
            f"{_gigabytes(bound)}; allow more with --cache-size, or take a smaller --size or "
            "fewer --layers"
        )


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.3g} GB"
