"""From what the user calls a checkpoint to a file or folder on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from clsspec_export.catalog import CATALOG, CatalogEntry, find
from clsspec_serve.download import download, sha256_matches
from clsspec_serve.errors import UsageError
from clsspec_serve.hub import parse_hub, snapshot
from clsspec_serve.progress import progress

_SAFE = ("*.json", "*.safetensors", "LICENSE*", "README.md")
_PICKLED = ("*.json", "*.bin", "*.pt", "*.pth", "LICENSE*", "README.md")


@dataclass(frozen=True)
class LocalCheckpoint:
    """A checkpoint on this machine, and what its name already tells about it.

    `path` is None for `timm:NAME`, which timm itself downloads. `format_hint`, `architecture`
    (timm's name) and `licence` are None where only the files can tell.
    """

    path: Path | None
    reference: str
    format_hint: str | None
    architecture: str | None
    licence: str | None


def resolve(reference: str, *, cache: Path | None = None) -> LocalCheckpoint:
    """Find a checkpoint, downloading it where it is not here yet.

    `reference` is a name from the catalogue, an existing file or folder, `hf:owner/name[@revision]`
    or `timm:NAME`. A catalogue name goes before a folder of that name, which an earlier export may
    have left: `./NAME` means the folder. `cache` stands in for CLSSPEC_CACHE.

    Raises UsageError for anything else, SourceError when a download fails.
    """
    kind, _, rest = reference.partition(":")
    if kind == "timm" and rest:
        return LocalCheckpoint(None, reference, "timm", rest, None)
    if kind == "hf":
        return _from_hub(reference, reference)
    try:
        entry = find(reference)
    except UsageError as error:
        path = Path(reference).expanduser()
        if reference and path.exists():
            return LocalCheckpoint(path, reference, None, None, None)
        raise UsageError(
            f"{error} (also accepted: an existing path, hf:owner/name[@revision] and timm:NAME)"
        ) from None
    if entry.address.startswith("hf:"):
        return _from_hub(entry.address, reference)
    path = _downloaded(entry, (cache or cache_folder()) / "checkpoints")
    return LocalCheckpoint(path, reference, entry.format, entry.architecture, entry.licence)


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


def _from_hub(address: str, reference: str) -> LocalCheckpoint:
    ref = parse_hub(address)
    folder = snapshot(ref, _SAFE)
    # Many repositories hold the same weights twice; the pickled ones are fetched only if alone.
    if not any(folder.rglob("*.safetensors")):
        folder = snapshot(ref, _PICKLED)
    known = {entry.address: entry for entry in CATALOG}.get(f"hf:{ref.owner_name}")
    if known is None:
        return LocalCheckpoint(folder, reference, "hf", None, None)
    return LocalCheckpoint(folder, reference, known.format, known.architecture, known.licence)
