"""Tensors from files, without ever running code from them."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from clsspec_export.checkpoints.checkpoint import StateDict
from clsspec_serve.errors import CheckpointError, one_line

_NUMPY_SCALARS: list[Any] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),  # before NumPy 2
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
]


def read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    """Tensors and metadata of one safetensors file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        return load_file(path), metadata
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def read_torch(path: Path) -> Any:
    """The content of a `.pt` / `.pth` / `.bin` file, restricted to tensors and plain values.

    `weights_only=True`: a file that needs anything else to load is refused, never executed. Numpy
    scalars are plain values: mmcv notes one in the depth heads of DINOv2.
    """
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to load the file without the restriction.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is None:
            raise CheckpointError(f"{path} is not a readable PyTorch file") from error
        raise CheckpointError(
            f"{path} holds more than tensors and plain values ({foreign[1]}) and is not loaded; "
            "save its state dict alone, as safetensors, where you trust it"
        ) from error
    except Exception as error:  # on broken files the restricted unpickler raises whatever it meets
        reason = one_line(error).partition(". ")[0]
        raise CheckpointError(f"{path} is not a readable PyTorch file: {reason}") from error


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights, in transformers' order of preference.

    `model.safetensors`, its shards, or else `pytorch_model.bin`.
    """
    whole, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    index = folder / "model.safetensors.index.json"
    if whole.is_file() or not (index.is_file() or pickled.is_file()):
        return [whole]
    if not index.is_file():
        return [pickled]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index} has no weight_map")
    return [folder / name for name in sorted(set(shards.values()))]


def read_folder(folder: Path) -> StateDict:
    """All tensors of a folder's `weight_files`."""
    state: StateDict = {}
    for file in weight_files(folder):
        content = read_safetensors(file)[0] if file.suffix == ".safetensors" else read_torch(file)
        if not isinstance(content, dict):
            raise CheckpointError(f"{file} holds a {type(content).__name__}, not tensors by name")
        state |= content
    return state


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file whose top level is an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content
