"""Answers as files: npy, npz, safetensors, with the geometry beside the arrays."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save as save_safetensors

from clsspec_serve.choices import Format
from clsspec_serve.errors import UsageError
from clsspec_serve.predictor import Prediction

Arrays = dict[str, NDArray[Any]]


def encode(prediction: Prediction, form: Format) -> bytes:
    """One picture's features.

    `npy`: the only array. `npz`: the arrays by name, and `geometry`, a JSON text. `safetensors`:
    the arrays by name, and the JSON under `geometry` in the metadata.
    """
    if form == "npy":
        return _npy(prediction)
    return encode_arrays(prediction.arrays, {"geometry": _json(prediction)}, form)


def encode_many(predictions: Mapping[str, Prediction], form: Format) -> bytes:
    """Several pictures' features in one file, each name led by the picture's and a slash."""
    if form == "npy":
        raise UsageError(
            "several images do not fit in one .npy; use .npz, .safetensors or a folder"
        )
    arrays: Arrays = {}
    texts: dict[str, str] = {}
    for name, prediction in predictions.items():
        of_one, geometry = _named(name, prediction)
        arrays |= of_one
        texts |= geometry
    return encode_arrays(arrays, texts, form)


def encode_arrays(
    arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str], form: Format
) -> bytes:
    """Arrays and texts by name; the texts are arrays in `npz` and metadata in `safetensors`."""
    if form == "npy":
        raise UsageError("a .npy holds one array and no text; use .npz or .safetensors")
    if form == "safetensors":
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        return save_safetensors(contiguous, metadata=dict(texts))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        **arrays,
        **{name: np.array(text) for name, text in texts.items()},
    )
    return buffer.getvalue()


class NpzStream:
    """The `.npz` of `encode_many`, written picture by picture, so that none has to be kept."""

    def __init__(self, stream: BinaryIO) -> None:
        self._archive = zipfile.ZipFile(stream, "w", allowZip64=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def add(self, name: str, prediction: Prediction) -> None:
        """Append one picture's arrays and geometry."""
        arrays, geometry = _named(name, prediction)
        for key, value in (
            arrays | {key: np.array(text) for key, text in geometry.items()}
        ).items():
            with self._archive.open(f"{key}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, value, allow_pickle=False)


def _named(name: str, prediction: Prediction) -> tuple[dict[str, Any], dict[str, str]]:
    """Arrays and geometry of one of several pictures, by the names that they have in the file."""
    # A file's name need not be UTF-8, a name in these formats must.
    picture = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    arrays = {f"{picture}/{key}": value for key, value in prediction.arrays.items()}
    return arrays, {f"{picture}/geometry": _json(prediction)}


def npy(array: NDArray[Any]) -> bytes:
    """One array as a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _npy(prediction: Prediction) -> bytes:
    if len(prediction.arrays) != 1:
        raise UsageError(
            f"a .npy file holds one array, not {', '.join(prediction.arrays)}; "
            "choose one with --tasks and --layers, or use .npz or .safetensors"
        )
    return npy(next(iter(prediction.arrays.values())))


def _json(prediction: Prediction) -> str:
    return json.dumps(prediction.geometry.to_dict())
