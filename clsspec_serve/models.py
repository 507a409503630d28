"""Where bundles come from: this package, a folder on this machine or the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from clsspec_serve.bundle import MANIFEST, Bundle, open_bundle
from clsspec_serve.errors import UsageError
from clsspec_serve.hub import parse_hub, snapshot

EMBEDDED = Path(__file__).parent / "default_model"
"""The bundle inside of this package, where there is one."""


def find_bundle(reference: str | Path | None) -> Bundle:
    """Open the bundle that `reference` names: a folder, read in place, or `hf:owner/name[@rev]`.

    None names the embedded one. Raises `UsageError` where there is none, `SourceError` when a
    download fails, `BundleError` when the folder is not a whole bundle.
    """
    if reference is None and EMBEDDED.is_dir():
        return open_bundle(EMBEDDED)
    if reference is None:
        raise UsageError(
            "no model given; name a bundle's folder or hf:owner/name, with --model where the "
            "command has it (`clsspec export` makes bundles)"
        )
    text = str(reference)
    if text.startswith("hf:"):
        repository = parse_hub(text)
        snapshot(repository, [MANIFEST])  # not gigabytes of what is no bundle
        return open_bundle(snapshot(repository))
    path = Path(os.path.expanduser(text))
    return open_bundle(path.parent if path.name == MANIFEST else path)
