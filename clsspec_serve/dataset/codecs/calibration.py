"""What is known of a codec before a run's first shard: its components, and what it loses."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field

from clsspec_serve.dataset.codecs.pca import Basis
from clsspec_serve.dataset.trees.tree import Tree, reading
from clsspec_serve.dataset.words import counted
from clsspec_serve.errors import DatasetError
from clsspec_serve.manifest import File
from clsspec_serve.outputs import npy
from clsspec_serve.schema import Count, Strict

Finite = Annotated[float, Field(allow_inf_nan=False)]

FOLDER = "codec"


class MapLoss(Strict):
    """Maps as they are read back, beside what the network gave.

    `variance`: the share of the patches' variance that is kept, None where they do not differ;
    below zero where their mean would be nearer. `cosine`: the mean over all patches of the cosine
    between both. `relative`: the Euclidean length of the difference over that of the maps.
    """

    variance: Finite | None
    cosine: Finite
    relative: Finite


class Calibration(Strict):
    """What `pictures` that no component was found on have lost.

    `maps`: by name; None where none of them could tell. `answers`: of the heads that take these
    maps: `segment`, the share of pixels that get another class; `depth`, the mean of the difference
    over the depth (AbsRel); `classify`, the share of pictures that get another class. `files`: the
    components, by path.
    """

    pictures: Count
    maps: dict[str, MapLoss | None]
    answers: dict[str, Finite]
    files: dict[str, File]

    def words(self) -> str:
        """In a line."""
        if not self.pictures:
            return "what it loses is not known, as no picture of the sample could be computed"
        parts = [f"{name} {_of_maps(loss)}" for name, loss in self.maps.items() if loss]
        parts += [_ANSWERS[name].format(_percent(loss)) for name, loss in self.answers.items()]
        return f"{'; '.join(parts)}; on {counted(self.pictures, 'picture')}"


_ANSWERS = {
    "segment": "segment: {} of the pixels get another class",
    "depth": "depth: {} off",
    "classify": "classify: {} get another class",
}


def _of_maps(loss: MapLoss) -> str:
    cosine = f"cosine {loss.cosine:.6f}"
    if loss.variance is None:
        return f"do not vary, {cosine}"
    return f"lose {_percent(1 - loss.variance)} of their variance, {cosine}"


def _percent(share: float) -> str:
    """With two digits, or more where it is large."""
    percent = 100 * share
    return f"{percent:.2g} %" if percent < 10 else f"{percent:.0f} %"


def write_bases(tree: Tree, bases: Mapping[str, Basis]) -> dict[str, File]:
    """Put `codec/NAME_mean.npy` and `codec/NAME_components.npy` in place for each map."""
    files = {}
    for name, basis in bases.items():
        for path, array in zip(_paths(name), (basis.mean, basis.components), strict=True):
            content = npy(array)
            tree.write(path, content)
            files[path] = File(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
    return files


def read_bases(tree: Tree, calibration: Calibration) -> dict[str, Basis]:
    """The components of each map; raises `DatasetError` where they are not those of the run."""
    arrays = {
        path: np.load(io.BytesIO(_read(tree, path, calibration))) for path in calibration.files
    }
    return {
        name: Basis(*(arrays[path] for path in _paths(name)))
        for name in calibration.maps
        if _paths(name)[0] in arrays
    }


def copy_bases(source: Tree, target: Tree, calibration: Calibration) -> None:
    """For another run in the same form."""
    for path in calibration.files:
        target.write(path, _read(source, path, calibration))


def _read(tree: Tree, path: str, calibration: Calibration) -> bytes:
    with reading(f"{tree.name}/{path}"):
        content = tree.read(path)
    if hashlib.sha256(content).hexdigest() != calibration.files[path].sha256:
        raise DatasetError(f"{tree.name}/{path}: was changed: its sha256 is another one")
    return content


def _paths(name: str) -> tuple[str, str]:
    return f"{FOLDER}/{name}_mean.npy", f"{FOLDER}/{name}_components.npy"
