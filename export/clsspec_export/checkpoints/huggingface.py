"""A Hugging Face model folder: configuration, tensors and preprocessor together."""

from __future__ import annotations

from pathlib import Path

from clsspec_export.checkpoints import hf_dinov2, hf_dinov3
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.files import read_folder, read_json
from clsspec_export.checkpoints.preprocessing import from_huggingface
from clsspec_serve.errors import CheckpointError, one_line

MODEL_TYPES = (*hf_dinov2.MODEL_TYPES, *hf_dinov3.MODEL_TYPES)


def read_huggingface(folder: Path) -> Checkpoint:
    """Read `config.json`, `model.safetensors` (or its shards) and `preprocessor_config.json`."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise CheckpointError(
            f"{folder} is a {kind!r} model; accepted are {', '.join(MODEL_TYPES)}"
        )
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder}: preprocessor_config.json is missing")
    preprocessing = from_huggingface(read_json(file), str(file))
    state = read_folder(folder)
    read = hf_dinov2.read_hf_dinov2 if kind in hf_dinov2.MODEL_TYPES else hf_dinov3.read_hf_dinov3
    try:
        return read(state, config, preprocessing, str(folder))
    except KeyError as error:
        raise CheckpointError(f"{folder}/config.json has no {error}") from error
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{folder}/config.json does not fit: {one_line(error)}") from error
