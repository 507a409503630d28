"""From what the user calls a checkpoint to a file or folder on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clsspec_export.catalog import CATALOG, find
from clsspec_export.heads.catalog import BY_NAME as HEADS
from clsspec_serve.choices import HeadTask
from clsspec_serve.download import download, sha256_matches
from clsspec_serve.errors import UsageError
from clsspec_serve.hub import HubRef, parse_hub, snapshot
from clsspec_serve.progress import progress

_SAFE = ("*.json", "*.safetensors", "LICENSE*")
_PICKLED = ("*.json", "*.bin", "*.pt", "*.pth", "LICENSE*")


@dataclass(frozen=True)
class LocalCheckpoint:
    """A file or folder on this machine; `licence` is the catalogue's, None where it has none."""

    reference: str
    path: Path
    licence: str | None = None


def resolve(reference: str, *, cache: Path | None = None) -> LocalCheckpoint:
    """Find a checkpoint, downloading it where it is not here yet.

    `reference` is a name from the catalogue, an existing file or folder, or
    `hf:owner/name[@revision]`. A catalogue name goes before a folder of that name, which an
    earlier export may have left: `./NAME` means the folder. `cache` stands in for CLSSPEC_CACHE.

    Raises UsageError for anything else, SourceError when a download fails.
    """
    if reference.startswith("hf:"):
        return _from_hub(reference, reference)
    try:
        entry = find(reference)
    except UsageError as error:
        path = Path(reference).expanduser()
        if reference and path.exists():
            return LocalCheckpoint(reference, path)
        raise UsageError(
            f"{error} (also accepted: an existing path, hf:owner/name[@revision] and timm:NAME)"
        ) from None
    if entry.address.startswith("hf:"):
        return _from_hub(entry.address, reference)
    path = _downloaded(entry.name, entry.address, entry.sha256, cache or cache_folder())
    return LocalCheckpoint(reference, path, entry.licence)


def resolve_head(
    reference: str, task: HeadTask, *, backbone: str | None = None, cache: Path | None = None
) -> LocalCheckpoint:
    """Find a head: a name from the catalogue of heads, or a file.

    `backbone` is what the user calls the checkpoint. Raises UsageError for a name of another task
    or of another checkpoint of the catalogue, SourceError when a download fails.
    """
    entry = HEADS.get(reference)
    if entry is None:
        return LocalCheckpoint(reference, Path(reference).expanduser())
    if entry.task != task:
        raise UsageError(f"{reference} is a head for {entry.task}, not for {task}")
    if backbone != entry.backbone and any(backbone == known.name for known in CATALOG):
        raise UsageError(f"{reference} is a head of {entry.backbone}, not of {backbone}")
    path = _downloaded(entry.name, entry.address, None, cache or cache_folder())
    return LocalCheckpoint(reference, path, entry.licence)


def cache_folder() -> Path:
    """CLSSPEC_CACHE, else `clsspec` in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    own = os.environ.get("CLSSPEC_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "clsspec"


def _downloaded(name: str, address: str, sha256: str | None, cache: Path) -> Path:
    path = cache / "checkpoints" / address.rpartition("/")[2]
    if path.is_file() and (sha256 is None or sha256_matches(path, sha256)):
        return path
    with progress(f"Downloading {name}", None, "B") as meter:
        return download(address, path, sha256=sha256, progress=meter.update)


def fetch_repository(ref: HubRef) -> Path:
    """The folder of a repository's weights, configuration and licence.

    Many repositories hold the same weights twice; the pickled ones are fetched only if alone.
    """
    folder = snapshot(ref, _SAFE)
    return folder if any(folder.rglob("*.safetensors")) else snapshot(ref, _PICKLED)


def _from_hub(address: str, reference: str) -> LocalCheckpoint:
    ref = parse_hub(address)
    licences = {entry.address: entry.licence for entry in CATALOG}
    licence = licences.get(f"hf:{ref.owner_name}")
    return LocalCheckpoint(reference, fetch_repository(ref), licence)
