"""Head files of our own: safetensors with the description of the head as metadata."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save
from torch import Tensor

from clsspec_export.heads.linear import LinearHead
from clsspec_serve.errors import CheckpointError, first_problem
from clsspec_serve.heads import AnyHead
from clsspec_serve.whole import write_whole

METADATA_KEY = "clsspec.head"

_Description: TypeAdapter[AnyHead] = TypeAdapter(AnyHead)


def write_own(head: LinearHead, path: Path) -> None:
    """Write a head with all that `clsspec export --head` and `fit --into` need to know of it."""
    description = _Description.dump_json(head.description).decode()
    tensors = {"weight": head.weight.contiguous(), "bias": head.bias.contiguous()}
    write_whole(path, save(tensors, metadata={METADATA_KEY: description}))


def read_own(tensors: dict[str, Tensor], metadata: str, source: str) -> LinearHead:
    """The inverse; raises `CheckpointError`."""
    if tensors.keys() != {"weight", "bias"}:
        raise CheckpointError(
            f"{source} holds {', '.join(sorted(tensors))}; a head of ours holds weight and bias"
        )
    try:
        description = _Description.validate_json(metadata)
    except ValidationError as error:
        raise CheckpointError(f"{source}: its description, {first_problem(error)}") from error
    return LinearHead(description, tensors["weight"], tensors["bias"])
