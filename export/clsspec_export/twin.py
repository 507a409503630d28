"""The plain twin of a bundle's backbone: the same architecture with nothing split.

Weights do not matter for speed, so the twin has random ones and needs no checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import product
from operator import or_
from pathlib import Path
from typing import Any

import torch

from clsspec_export.architectures import create, describe
from clsspec_export.audit import audit
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.graphs import write_graphs
from clsspec_export.paper import PAPER, SUFFIX
from clsspec_export.random_weights import randomize
from clsspec_export.specialize import PLAIN, ViT, specialize
from clsspec_export.storage import round_to_fp16
from clsspec_serve.bundle import Bundle
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Architecture, LearnedPosition, Manifest


def write_twin(bundle: Bundle, folder: Path) -> Bundle:
    """Write a bundle's plain twin to an existing folder: same outputs, positions and storage.

    It has neither heads nor a reference, and is never opened as a bundle. Raises `UsageError` for
    a bundle that is plain itself and for one that timm cannot build a twin of, `ExportError` when
    the twin's graph does not multiply what it should.
    """
    manifest = bundle.manifest
    model = plain_model(manifest)
    randomize(model)
    checkpoint = Checkpoint(
        model=model,
        architecture=manifest.architecture.name,
        format="random",
        position=manifest.position,
        table=torch.from_numpy(bundle.position_table().copy()),
        preprocessing=manifest.preprocessing,
    )
    if manifest.storage == "fp16":
        checkpoint = round_to_fp16(checkpoint)
    bare: dict[str, Any] = {"heads": (), "variants": (), "files": {}, "parity": ()}
    twin = Bundle(folder, manifest.model_copy(update=bare))
    write_graphs(checkpoint, manifest.outputs, folder)
    plain = manifest.architecture.model_copy(update={"specialization": None})
    audit(twin.graph, plain)
    return twin


def plain_model(manifest: Manifest) -> ViT:
    """A model without weights of its own for [CLS] that, once specialized, is the bundle's.

    A manifest names the timm architecture and not its every argument. What is sure is the result:
    specialized as the manifest says, it has the same description, number of parameters included.
    Raises `UsageError`.
    """
    architecture = manifest.architecture
    if architecture.specialization is None:
        raise UsageError(f"{manifest.name} is plain; it is its own plain twin")
    for base, arguments in _candidates(manifest):
        with torch.device("meta"):  # shapes only, which take no time and no memory
            there = _described(base, arguments, architecture) == architecture
        if there:
            return _specialized(base, arguments, architecture, plain=True)
    raise UsageError(
        f"the plain twin of {architecture.name} cannot be built: timm has no model of that name "
        "with its sizes and number of parameters"
    )


def _described(base: str, arguments: dict[str, Any], architecture: Architecture) -> object:
    try:
        model = _specialized(base, arguments, architecture, plain=False)
    except UsageError:
        return None
    return describe(architecture.name, model)


def _specialized(
    base: str, arguments: dict[str, Any], architecture: Architecture, *, plain: bool
) -> ViT:
    specialization = architecture.specialization
    return specialize(
        create(base, **arguments),
        PLAIN if plain or specialization is None else specialization,
        attention_bias=architecture.attention_bias,
    )


def _candidates(manifest: Manifest) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and arguments of `timm.create_model`, the likelier ones first."""
    architecture = manifest.architecture
    name = architecture.name.removesuffix(SUFFIX)
    rows = [(row.base, row.arguments) for row in PAPER if row.name == architecture.name]
    # DINOv3's own weights have a bias in QKV, which the name that they go by does not say.
    bases = [*rows, (name, {}), (f"{name}_qkvb", {})]
    sizes: dict[str, Any] = {
        "embed_dim": architecture.embed_dim,
        "depth": architecture.depth,
        "num_heads": architecture.num_heads,
    }
    if isinstance(manifest.position, LearnedPosition):
        sizes["img_size"] = tuple(n * architecture.patch_size for n in manifest.position.grid)
    width, hidden = architecture.mlp[0]
    scales: list[dict[str, Any]] = [{}, {"init_values": 1e-5}, {"init_values": 0}]
    ratios: list[dict[str, Any]] = [{}, {"mlp_ratio": hidden / width}]
    norms: list[dict[str, Any]] = [{}, {"final_norm": False}]
    for (base, arguments), *others in product(bases, norms, scales, ratios):
        yield base, reduce(or_, others, arguments | sizes)
