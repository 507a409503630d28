"""The README of a bundle: what it is, where it came from, how close it is."""

from __future__ import annotations

from clsspec_serve.manifest import Manifest


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
    warning = (
        "\n**The weights are random: the features mean nothing.**\n"
        if provenance.format == "random"
        else ""
    )
    return f"""# {manifest.name}

A clsspec bundle of `{architecture.name}`: {architecture.parameters:,} parameters, patch
{architecture.patch_size}, {architecture.embed_dim} wide, {architecture.depth} blocks.
{warning}
- weights of their own for [CLS] and patches: {split}
- source: {provenance.source} (format {provenance.format})
- licence of the weights: {provenance.licence or "not stated by the source"}
{heads}
Largest difference to PyTorch, relative to its largest value:

{parity}

`clsspec verify FOLDER` checks the files and repeats the comparison on this machine.
"""
