"""The README of a bundle: what it is, where it came from, how close it is."""

from __future__ import annotations

from pathlib import Path

from clsspec_serve.bundle import describe, open_bundle, write_manifest
from clsspec_serve.manifest import STORAGE, Manifest

CARD = "README.md"


def model_card(manifest: Manifest) -> str:
    """A short model card in Markdown, from the manifest alone."""
    architecture, provenance = manifest.architecture, manifest.provenance
    specialization = architecture.specialization
    split = "none (plain)" if specialization is None else specialization.summary()
    parity = "\n".join(
        f"- {each.engine} {each.precision}: {each.summary()}" for each in manifest.parity
    )
    heads = "".join(
        f"- head for {head.task}: {head.summary()}; {head.source.name} ({head.source.format}), "
        f"licence: {head.source.licence or 'not stated'}\n"
        for head in manifest.heads
    )
    description = "" if manifest.description is None else f"\n{manifest.description}\n"
    stored = "" if manifest.storage == "fp32" else f"- weights: {STORAGE[manifest.storage]}\n"
    warning = (
        "\n**The weights are random: the features mean nothing.**\n"
        if provenance.format == "random"
        else ""
    )
    return f"""# {manifest.name}
{description}
A clsspec bundle of `{architecture.name}`: {architecture.parameters:,} parameters, patch
{architecture.patch_size}, {architecture.embed_dim} wide, {architecture.depth} blocks.
{warning}
- weights of their own for [CLS] and patches: {split}
- source: {provenance.source} (format {provenance.format})
{stored}- licence of the weights: {provenance.licence or "not stated by the source"}
{heads}
Largest difference to PyTorch, relative to its largest value:

{parity}

`clsspec verify FOLDER` checks the files and repeats the comparison on this machine.
"""


def replace_card(folder: Path, text: str) -> None:
    """Give a bundle another model card, and its manifest the card's hash; raises `BundleError`."""
    manifest = open_bundle(folder).manifest
    (folder / CARD).write_text(text, encoding="utf-8")
    files = manifest.files | {CARD: describe(folder / CARD)}
    write_manifest(folder, manifest.model_copy(update={"files": files}))
