"""A checkpoint from whatever its user calls it, with the facts of its origin."""

from __future__ import annotations

import hashlib
from pathlib import Path

from clsspec_export.checkpoints.checkpoint import Checkpoint, Origin
from clsspec_export.checkpoints.files import weight_files
from clsspec_export.checkpoints.random import random_checkpoint
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.checkpoints.timm_files import timm_repository
from clsspec_export.fetch import LocalCheckpoint, fetch_repository, resolve
from clsspec_serve.errors import UsageError

RANDOM = "random:"
TIMM = "timm:"

LICENCES = {"dinov3": "dinov3-license", "huggingface-dinov3": "dinov3-license"}
"""Formats whose weights are all under one licence, or derived from such weights."""


def load_checkpoint(
    reference: str, *, architecture: str | None = None, rules: Path | None = None
) -> tuple[Checkpoint, Origin]:
    """Resolve, download where needed, and read; see `resolve` and `read_checkpoint`.

    `timm:NAME` is timm's repository on the Hub; `random:NAME` an architecture with random weights.
    """
    if reference.startswith((RANDOM, TIMM)) and (architecture, rules) != (None, None):
        raise UsageError(f"{reference} says what it is; --arch and --rules are for files")
    if reference.startswith(RANDOM):
        return random_checkpoint(reference.removeprefix(RANDOM)), Origin(reference)
    if reference.startswith(TIMM):
        repository, licence = timm_repository(reference.removeprefix(TIMM))
        local = LocalCheckpoint(reference, fetch_repository(repository), licence)
    else:
        local = resolve(reference)
    checkpoint = read_checkpoint(local.path, architecture=architecture, rules=rules)
    return checkpoint, Origin(
        source=local.path.name if reference == str(local.path) else reference,
        sha256=_digest(local.path),
        licence=local.licence or checkpoint.licence or LICENCES.get(checkpoint.format),
        licence_text=_licence_text(local.path),
    )


def _digest(path: Path) -> str:
    """sha256 of the weights file; of the shards of a folder, one after the other by name."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else weight_files(path):
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _licence_text(path: Path) -> str | None:
    if path.is_file():
        return None
    found = sorted(file for file in path.glob("LICENSE*") if file.is_file())
    return found[0].read_text(encoding="utf-8", errors="replace") if found else None
