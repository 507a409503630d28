"""clsspec's own checkpoints: safetensors, the configuration as JSON in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from safetensors.torch import save_file

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    learned_table,
    load_strict,
    rotary_table,
)
from clsspec_export.checkpoints.low_rank import merge_low_rank
from clsspec_export.checkpoints.preprocessing import from_timm
from clsspec_export.checkpoints.timm_files import timm_position
from clsspec_export.paper import PAPER
from clsspec_export.specialize import (
    PLAIN,
    ViT,
    has_attention_bias,
    specialization_of,
    specialize,
)
from clsspec_serve.errors import CheckpointError, UsageError, first_problem
from clsspec_serve.manifest import (
    LearnedPosition,
    Preprocessing,
    RotaryPosition,
    Specialization,
)
from clsspec_serve.schema import Sentence, Strict

FORMAT = "clsspec"
METADATA_KEY = "clsspec"
PERIODS = "rope.periods"


_RESERVED = {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
}
"""Arguments of `timm.create_model` that would fetch or open other files than the checkpoint."""


class NativeConfig(Strict):
    """The metadata of a native checkpoint.

    `architecture` and `arguments` are what `timm.create_model` gets; `specialization` and
    `attention_bias` then say what is split, whatever the name stands for. Without `position` or
    `preprocessing` they are timm's for that architecture. `description` and
    `licence` are the bundle's.
    """

    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    specialization: Specialization | None = None
    attention_bias: bool = False
    position: Annotated[LearnedPosition | RotaryPosition, Field(discriminator="kind")] | None = None
    preprocessing: Preprocessing | None = None
    description: Sentence | None = None
    licence: Sentence | None = None

    @field_validator("arguments")
    @classmethod
    def _only_the_architecture(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if reserved := sorted(_RESERVED & arguments.keys()):
            raise ValueError(f"{', '.join(reserved)} is not part of an architecture")
        return arguments


def save_native(
    model: ViT,
    path: str | Path,
    *,
    architecture: str,
    arguments: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    description: str | None = None,
    licence: str | None = None,
) -> None:
    """Write a specialized model, trained under a name of timm or clsspec, for `clsspec export`.

    `arguments` are those beside the name that `timm.create_model` got. A classifier is left out.
    `description` is a sentence for people, such as what the model was trained on, `licence` that of
    the weights: bundles made from the file carry both. Raises `UsageError` for a model that is not
    specialized, and for one of the two of more than one line.
    """
    specialization = specialization_of(model)
    if specialization is None:
        raise UsageError("the model is not specialized; timm's own formats hold plain models")
    position, table = timm_position(model)
    try:
        config = NativeConfig(
            architecture=architecture,
            arguments={key: v for key, v in (arguments or {}).items() if key != "num_classes"},
            specialization=specialization,
            attention_bias=has_attention_bias(model),
            position=position,
            preprocessing=preprocessing or from_timm(model),
            description=description,
            licence=licence,
        )
    except ValidationError as error:
        raise UsageError(f"{path}, {first_problem(error)}") from error
    state = {
        key: value.contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith("head.")
    }
    if isinstance(position, RotaryPosition):
        state[PERIODS] = table
    path = Path(path)
    part = path.with_name(f".{path.name}.tmp")
    try:
        save_file(state, part, metadata={METADATA_KEY: config.model_dump_json()})
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_native(state: StateDict, metadata: str, source: str) -> Checkpoint:
    """Build the model that the metadata describes and fill it, strictly."""
    try:
        config = NativeConfig.model_validate_json(metadata)
    except ValidationError as error:
        raise CheckpointError(f"{source}: metadata field {first_problem(error)}") from error
    return build(config, state, source, FORMAT)


def build(config: NativeConfig, state: StateDict, source: str, file_format: str) -> Checkpoint:
    """A checkpoint from a configuration and tensors with clsspec's names.

    A [CLS] QKV that is stored as a low-rank difference is merged. A rotary model's periods may be
    among the tensors; otherwise they are the architecture's.
    """
    row = {row.name: row for row in PAPER}.get(config.architecture)
    model = (
        create(config.architecture, **config.arguments)
        if row is None
        else create(row.base, **(row.arguments | config.arguments))
    )
    model = specialize(model, config.specialization or PLAIN, attention_bias=config.attention_bias)
    state = dict(state)
    periods = state.pop(PERIODS, None)
    load_strict(model, merge_low_rank(state, source), source)
    position, table = timm_position(model)
    if isinstance(position, RotaryPosition):
        table = table if periods is None else rotary_table(periods, model, source)
    else:
        table = learned_table(model)
    if config.position is not None and not _same_map(config.position, position):
        raise CheckpointError(
            f"{source}: position {config.position} does not fit {config.architecture}: {position}"
        )
    return Checkpoint(
        model=model,
        architecture=config.architecture,
        format=file_format,
        position=config.position or position,
        table=table,
        preprocessing=config.preprocessing or from_timm(model),
        description=config.description,
        licence=config.licence,
    )


def _same_map(
    one: LearnedPosition | RotaryPosition, other: LearnedPosition | RotaryPosition
) -> bool:
    """Whether two rules resize the same table; how they resize a learned one may differ."""
    if isinstance(one, LearnedPosition) and isinstance(other, LearnedPosition):
        return one.grid == other.grid
    return one == other
