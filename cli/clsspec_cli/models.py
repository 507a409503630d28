"""`clsspec models`: what can be exported by name."""

from __future__ import annotations

import json
from dataclasses import asdict

from clsspec_cli import options


def models(as_json: options.Json = False) -> None:
    """List the checkpoints, heads and architectures that `clsspec export` knows by name."""
    from clsspec_export.catalog import CATALOG
    from clsspec_export.heads.catalog import HEADS
    from clsspec_export.paper import PAPER

    if as_json:
        entries = [asdict(entry) for entry in CATALOG]
        names = [row.name for row in PAPER]
        heads = [asdict(entry) for entry in HEADS]
        facts = {"checkpoints": entries, "heads": heads, "architectures": names}
        print(json.dumps(facts, indent=2))
        return
    print("Checkpoints (clsspec export NAME --out BUNDLE):")
    for entry in CATALOG:
        digest = f"sha256 {entry.sha256}" if entry.sha256 else "sha256 not published"
        print(f"  {entry.name}")
        print(f"      {entry.address}")
        print(f"      {entry.licence}; {digest}{f'; {entry.note}' if entry.note else ''}")
    print("\nHeads (clsspec export BACKBONE --head TASK=NAME; Apache-2.0, sha256 not published):")
    for head in HEADS:
        print(f"  {head.task}={head.name}")
        print(f"      {head.address}")
    print("\nArchitectures (timm.create_model, --arch NAME, random:NAME):")
    for row in PAPER:
        print(f"  {row.name}")
