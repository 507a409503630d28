"""Which reader a checkpoint needs, found from its files, keys and metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clsspec_export.checkpoints import deit3, dinov2, dinov3, native, timm_files
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.files import read_json, read_safetensors, read_torch
from clsspec_export.checkpoints.foreign import flatten, read_foreign, read_rules
from clsspec_export.checkpoints.huggingface import read_huggingface
from clsspec_serve.bundle import MANIFEST
from clsspec_serve.errors import CheckpointError, UsageError


def read_checkpoint(
    path: Path, *, architecture: str | None = None, rules: Path | None = None
) -> Checkpoint:
    """Read a checkpoint file or folder in any supported format.

    `architecture` is for files that do not say what they are (timm's keys, DINOv2 of an unusual
    size); `rules` names a rule file for foreign names. Raises `CheckpointError`.
    """
    source = str(path)
    if path.is_dir():
        if (architecture, rules) != (None, None):
            raise UsageError(
                f"{path} is a folder, which says what it is, without --arch or --rules"
            )
        return _read_folder(path)
    metadata: dict[str, str] = {}
    content: Any
    if path.suffix == ".safetensors":
        content, metadata = read_safetensors(path)
    else:
        content = read_torch(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{source} holds a {type(content).__name__}, not tensors by name")
    if rules is not None:
        if architecture is not None:
            raise UsageError("--arch does nothing beside --rules, which names the architecture")
        return read_foreign(content, read_rules(rules), source)
    if native.METADATA_KEY in metadata:
        _refuse_architecture(architecture, source)
        return native.read_native(content, metadata[native.METADATA_KEY], source)
    return _read_by_keys(content, architecture, source)


def _read_by_keys(content: dict[str, Any], architecture: str | None, source: str) -> Checkpoint:
    bare, backbone = flatten(deit3.unwrap(content)), flatten(dinov2.unwrap(content))
    if dinov3.is_dinov3(backbone):
        _refuse_architecture(architecture, source)
        return dinov3.read_dinov3(backbone, source)
    if deit3.is_deit3(bare):
        _refuse_architecture(architecture, source)
        return deit3.read_deit3(bare, source)
    if dinov2.is_dinov2(backbone):
        trained = dinov2.is_training_file(content)
        return dinov2.read_dinov2(backbone, source, architecture, trained=trained)
    if architecture is not None and bare:
        return timm_files.read_timm_file(flatten(timm_files.unwrap(content)), architecture, source)
    sample = ", ".join(sorted(bare)[:3]) or "no tensors"
    raise CheckpointError(
        f"{source} has keys of no known format ({sample}); for timm's keys name the model with "
        "--arch, for other names give --rules FILE"
    )


def _refuse_architecture(architecture: str | None, source: str) -> None:
    if architecture is not None:
        raise UsageError(f"{source} says what it is; --arch {architecture} does not apply")


def _read_folder(path: Path) -> Checkpoint:
    if (path / MANIFEST).is_file():
        raise UsageError(f"{path} is a bundle already; export takes a checkpoint")
    if not (path / "config.json").is_file():
        raise CheckpointError(
            f"{path} has no config.json; accepted folders are Hugging Face's and timm's"
        )
    config = read_json(path / "config.json")
    if "model_type" not in config and isinstance(config.get("architecture"), str):
        return timm_files.read_timm_folder(path)
    return read_huggingface(path)
