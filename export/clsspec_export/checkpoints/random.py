"""Architectures with random weights: for trying the tools and for measuring speed."""

from __future__ import annotations

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.preprocessing import from_timm
from clsspec_export.checkpoints.timm_files import timm_position
from clsspec_export.random_weights import randomize
from clsspec_export.specialize import PLAIN, specialization_of, specialize

FORMAT = "random"


def random_checkpoint(architecture: str, seed: int = 0) -> Checkpoint:
    """The architecture, filled from a seeded generator; its features mean nothing."""
    model = create(architecture)
    if specialization_of(model) is None:
        specialize(model, PLAIN)
    randomize(model, seed)
    position, table = timm_position(model)
    return Checkpoint(
        model=model,
        architecture=architecture,
        format=FORMAT,
        position=position,
        table=table,
        preprocessing=from_timm(model),
    )
