"""Where bundles come from: this package, a folder on this machine or the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from clsspec_serve.bundle import MANIFEST, Bundle, open_bundle
from clsspec_serve.hub import parse_hub, snapshot

EMBEDDED = Path(__file__).parent / "default_model"
"""The bundle inside of this package: indoor-tiny."""


def find_bundle(reference: str | Path | None) -> Bundle:
    """Open the bundle that `reference` names: a folder, read in place, or `hf:owner/name[@rev]`.

    None names the embedded one. Raises `SourceError` when a download fails, `BundleError` when the
    folder is not a whole bundle, and `UsageError` for `hf:` before anything else.
    """
    if reference is None:
        return open_bundle(EMBEDDED)
    text = str(reference)
    if text.startswith("hf:"):
        repository = parse_hub(text)
        snapshot(repository, [MANIFEST])  # not gigabytes of what is no bundle
        return open_bundle(snapshot(repository))
    path = Path(os.path.expanduser(text))
    return open_bundle(path.parent if path.name == MANIFEST else path)
