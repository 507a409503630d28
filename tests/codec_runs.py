"""Runs whose maps are kept in another form, and what numpy and zarr read back of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from dataset_sources import named
from http_server import observed
from numpy.typing import NDArray

from clsspec_serve import Model, load
from clsspec_serve.dataset.codecs.codec import Codec, parse_codec
from clsspec_serve.dataset.recomputing import Comparison, recompute
from clsspec_serve.dataset.run import open_run
from clsspec_serve.dataset.trees.opening import open_tree
from clsspec_serve.dataset.working import Threads
from clsspec_serve.request import Options

SQUASH: Options = {"tasks": ("cls", "patches"), "policy": "squash"}
CODECS = ("int8", "pca:2", "pca:2,int8")
BAD = 6


def codec_of(text: str) -> dict[str, Codec]:
    return {"codec": parse_codec(text)}


def features(bundle: Path, name: str, **options: Any) -> NDArray[np.float32]:
    """A picture's patches, from the model itself."""
    return load(bundle, threads=1)(named(10)[name], tasks=("patches",), **options).patches


def read_back(out: Path, row: int, text: str) -> NDArray[Any]:
    """A map of a run, as the documents say it is read."""
    arrays = {name: zarr.open_array(out / f"{name}.zarr", mode="r") for name in names_of(text)}
    return restored(out, {name: array[row] for name, array in arrays.items()}, text)


def names_of(text: str) -> list[str]:
    factors = ["patches_scale", "patches_offset"] if "int8" in text else []
    return ["patches", *factors]


def restored(out: Path, arrays: dict[str, NDArray[Any]], text: str) -> NDArray[Any]:
    found = arrays["patches"]
    if "int8" in text:
        found = found * arrays["patches_scale"] + arrays["patches_offset"]
    if "pca" in text:
        components, mean = (
            np.load(out / "codec" / f"patches_{part}.npy") for part in ("components", "mean")
        )
        found = found @ components + mean
    return found


def state(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def again(bundle: Path, out: Path) -> Comparison:
    run = open_run(open_tree(str(out)))
    return recompute(run, run.records(), load(bundle, threads=1), Threads(2, 2), 10)


def sometimes_nan(bundle: Path) -> Model:
    """A model whose engine gives NaN for some patches of some pictures."""
    model = observed(bundle, lambda inputs: None)
    run = model.engine.run

    def with_nan(inputs: Any, outputs: Any) -> dict[str, NDArray[Any]]:
        found = run(inputs, outputs)
        if "patches" in found:
            odd = found["patches"][:, :1, :1, :1] > 128
            found["patches"] = np.where(odd, np.nan, found["patches"])
        return found

    model.engine.run = with_nan  # type: ignore[method-assign]
    return model
