"""A head from whatever file its user has."""

from __future__ import annotations

import os
from pathlib import Path

from clsspec_export.checkpoints.files import read_safetensors, read_torch
from clsspec_export.features import feature
from clsspec_export.heads.context import Context
from clsspec_export.heads.describe import describe_head
from clsspec_export.heads.linear import LinearHead, checked, fold_batch_norm
from clsspec_export.heads.names import named_tensors
from clsspec_export.heads.own import METADATA_KEY, read_own
from clsspec_serve.bundle import describe
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import CheckpointError, UsageError
from clsspec_serve.heads import Source
from clsspec_serve.layers import Layer
from clsspec_serve.manifest import Architecture, Preprocessing


def read_head(
    task: HeadTask,
    path: Path,
    architecture: Architecture,
    preprocessing: Preprocessing,
    *,
    maximum: float | None = None,
    layers: tuple[Layer, ...] | None = None,
    licence: str | None = None,
) -> LinearHead:
    """Read `FILE` or `FILE#NAME` and fit it to a backbone.

    Accepted are DINOv2's official files, those of DINOv3's evaluation code, a linear layer's bare
    `weight` and `bias`, and our own. `maximum` and `layers`: see `Context`. Raises
    `CheckpointError` for a file that is none of these or does not fit the backbone, `UsageError`
    for options that it lacks or has no use for.
    """
    file, part = _split(path)
    if not os.path.isfile(file):
        raise CheckpointError(
            f"{file} is not a file; --head takes TASK=FILE, or a name from `clsspec models`"
        )
    metadata: dict[str, str] = {}
    if file.suffix == ".safetensors":
        content, metadata = read_safetensors(file)
    else:
        content = read_torch(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a {type(content).__name__}, not tensors by name")
    if METADATA_KEY in metadata:
        if part is not None or maximum is not None or layers is not None:
            raise UsageError(
                f"{file} says itself what it takes and gives; it is read without #NAME, "
                "--head-layers and --max-depth"
            )
        return _own(read_own(content, metadata[METADATA_KEY], str(file)), task, architecture, file)
    named = named_tensors(content, task, str(file), part)
    tensors = named.tensors
    weight, bias = tensors["weight"], tensors["bias"]
    if "norm.weight" in tensors:
        norm = (tensors[f"norm.{name}"] for name in ("weight", "bias", "mean", "variance"))
        weight, bias = fold_batch_norm(weight, bias, *norm)
    source = Source(
        name=file.name, format=named.format, sha256=describe(file).sha256, licence=licence
    )
    context = Context(architecture, preprocessing, file.name, source, maximum, layers)
    description = describe_head(task, named, context)
    return checked(LinearHead(description, weight, bias), architecture, str(file))


def _own(head: LinearHead, task: HeadTask, architecture: Architecture, file: Path) -> LinearHead:
    """A head that says what it takes: the backbone must have just that."""
    if head.description.task != task:
        raise CheckpointError(f"{file} is a head for {head.description.task}, not for {task}")
    try:
        inputs = tuple(
            feature(architecture, output.kind, Layer(output.layer, output.norm))
            for output in head.description.inputs
        )
    except UsageError as error:
        raise CheckpointError(f"{file} does not fit the backbone: {error}") from error
    description = head.description.model_copy(update={"inputs": inputs})
    return checked(LinearHead(description, head.weight, head.bias), architecture, str(file))


def _split(path: Path) -> tuple[Path, str | None]:
    if os.path.exists(path):
        return path, None
    file, mark, part = str(path).rpartition("#")
    return (Path(file), part) if mark else (path, None)
