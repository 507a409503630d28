"""A bundle of no more than what runs, for benchmarks: no checks, no reference, no heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.export import architecture_of
from clsspec_export.features import features
from clsspec_export.graphs import write_graphs
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import Precision
from clsspec_serve.manifest import Manifest, Provenance


def write_bare_bundle(
    checkpoint: Checkpoint,
    folder: Path,
    precisions: Sequence[Precision] = (),
    pictures: Sequence[Path] = (),
) -> Bundle:
    """Write the backbone to an existing folder, with [CLS] and patches of the last layer.

    `precisions`, `pictures`: as of `write_graphs`.
    """
    architecture = architecture_of(checkpoint)
    manifest = Manifest(
        name=checkpoint.architecture,
        architecture=architecture,
        preprocessing=checkpoint.preprocessing,
        position=checkpoint.position,
        outputs=features(architecture, []),
        provenance=Provenance(
            source=f"random:{checkpoint.architecture}", format=checkpoint.format, versions={}
        ),
        parity=(),
        files={},
    )
    variants = write_graphs(checkpoint, manifest.outputs, folder, precisions, pictures)
    return Bundle(folder, manifest.model_copy(update={"variants": variants}))
