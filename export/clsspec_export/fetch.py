"""From what the user calls a checkpoint to a file or folder on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clsspec_export.catalog import CATALOG, CatalogEntry, find
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
    path = _downloaded(entry, (cache or cache_folder()) / "checkpoints")
    return LocalCheckpoint(reference, path, entry.licence)


def cache_folder() -> Path:
    """CLSSPEC_CACHE, else `clsspec` in the user's cache folder (XDG_CACHE_HOME, ~/.cache)."""
    own = os.environ.get("CLSSPEC_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "clsspec"


def _downloaded(entry: CatalogEntry, folder: Path) -> Path:
    path = folder / entry.address.rpartition("/")[2]
    if path.is_file() and (entry.sha256 is None or sha256_matches(path, entry.sha256)):
        return path
    with progress(f"Downloading {entry.name}", None, "B") as meter:
        return download(entry.address, path, sha256=entry.sha256, progress=meter.update)


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
