"""Where bundles come from: a folder on this machine or the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from clsspec_serve.bundle import MANIFEST, Bundle, open_bundle
from clsspec_serve.errors import UsageError
from clsspec_serve.hub import parse_hub, snapshot


def find_bundle(reference: str | Path | None) -> Bundle:
    """Open the bundle that `reference` names: a folder, read in place, or `hf:owner/name[@rev]`.

    Raises `UsageError` without a reference, `SourceError` when a download fails, `BundleError`
    when the folder is not a whole bundle.
    """
    if reference is None:
        raise UsageError(
            "no model given; name a bundle's folder or hf:owner/name with --model "
            "(`clsspec export` makes bundles)"
        )
    text = str(reference)
    if text.startswith("hf:"):
        repository = parse_hub(text)
        snapshot(repository, [MANIFEST])  # not gigabytes of what is no bundle
        return open_bundle(snapshot(repository))
    path = Path(os.path.expanduser(text))
    return open_bundle(path.parent if path.name == MANIFEST else path)
