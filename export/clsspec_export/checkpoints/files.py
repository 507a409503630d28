"""Tensors from files, without ever running code from them."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from clsspec_export.checkpoints.checkpoint import StateDict
from clsspec_serve.errors import CheckpointError


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

    `weights_only=True`: a file that needs anything else to load is refused, never executed.
    """
    try:
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
        reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        raise CheckpointError(f"{path} is not a readable PyTorch file: {reason}") from error


def read_sharded(folder: Path) -> StateDict:
    """All tensors of a folder: `model.safetensors`, its shards, or else `pytorch_model.bin`."""
    index, pickled = folder / "model.safetensors.index.json", folder / "pytorch_model.bin"
    if not index.is_file():
        if pickled.is_file() and not (folder / "model.safetensors").exists():
            return read_torch(pickled)
        return read_safetensors(folder / "model.safetensors")[0]
    shards = sorted(set(read_json(index)["weight_map"].values()))
    state: StateDict = {}
    for shard in shards:
        state |= read_safetensors(folder / shard)[0]
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
