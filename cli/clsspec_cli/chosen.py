"""The bundle that a command was given, or the embedded one and a line that says so."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clsspec_serve.bundle import Bundle


def chosen_bundle(reference: str | None) -> Bundle:
    """Open it; see `find_bundle`. What the embedded one is, it says itself, on stderr."""
    from clsspec_serve.models import find_bundle

    bundle = find_bundle(reference)
    if reference is None:
        manifest = bundle.manifest
        sentence = manifest.description
        about = "" if sentence is None else f"{sentence.removesuffix('.')}; "
        print(
            f"model: {manifest.name}, the embedded one ({about}for more, `clsspec models` and "
            "--model)",
            file=sys.stderr,
            flush=True,
        )
    return bundle
