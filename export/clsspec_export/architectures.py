"""Models by name: timm's, and the paper's, which are registered with timm here."""

from __future__ import annotations

import sys
from typing import Any

import timm
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clsspec_export.paper import PAPER, SUFFIX, Row
from clsspec_export.specialize import (
    PLAIN,
    ViT,
    has_attention_bias,
    paper_specialization,
    specialization_of,
    specialize,
)
from clsspec_serve.errors import UsageError, one_line
from clsspec_serve.manifest import Architecture, Specialization


def create(name: str, **kwargs: Any) -> ViT:
    """`timm.create_model` for a name of ours or of timm, in eval mode and without classifier.

    Raises `UsageError` for an unknown name, for arguments that timm cannot build it with, and for
    a model that is not a ViT clsspec handles.
    """
    if not timm.is_model(name):
        raise UsageError(
            f"{name!r} is not an architecture that timm or clsspec knows; "
            "`clsspec models` lists clsspec's, timm.list_models() timm's"
        )
    try:
        model = timm.create_model(name, **({"num_classes": 0} | kwargs)).eval()
    except (ArithmeticError, AssertionError, AttributeError, TypeError) as error:
        reason = one_line(error)
        raise UsageError(f"timm cannot build {name} with the arguments given: {reason}") from error
    return require_vit(model, name)


def require_vit(model: nn.Module, name: str) -> ViT:
    """The model, if it is one of the two classes that can be specialized; else `UsageError`."""
    if type(model) not in (VisionTransformer, Eva):
        raise UsageError(
            f"{name} is a {type(model).__name__}; "
            "accepted are timm's VisionTransformer and Eva architectures"
        )
    return model


def specialized_name(name: str) -> str:
    """The name of an architecture's specialized form."""
    return name if name.endswith(SUFFIX) else name + SUFFIX


def describe(name: str, model: ViT) -> Architecture:
    """A model that went through `specialize`, in the manifest's terms."""
    attention, specialization = model.blocks[0].attn, specialization_of(model)
    return Architecture(
        name=name,
        family="eva" if isinstance(model, Eva) else "vit",
        embed_dim=model.embed_dim,
        depth=len(model.blocks),
        num_heads=attention.num_heads,
        mlp=tuple(
            (layer.in_features, layer.out_features)
            for layer in model.blocks[0].mlp.modules()
            if isinstance(layer, nn.Linear)
        ),
        patch_size=model.patch_embed.patch_size[0],
        registers=model.num_prefix_tokens - 1,
        final_norm=not isinstance(model.norm, nn.Identity),
        attention_bias=has_attention_bias(model),
        specialization=None if specialization == PLAIN else specialization,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _register(row: Row) -> None:
    """Register a row with timm.

    `pretrained=True` loads the weights of its base, which the conversion leaves as they are.
    """

    def build(
        pretrained: bool = False, specialization: Specialization | None = None, **kwargs: Any
    ) -> ViT:
        model = timm.create_model(row.base, pretrained=pretrained, **(row.arguments | kwargs))
        default = paper_specialization(len(model.blocks)) if row.specialized else PLAIN
        return specialize(model, specialization or default, attention_bias=row.attention_bias)

    build.__name__ = build.__qualname__ = row.name
    setattr(sys.modules[__name__], row.name, register_model(build))


for _row in PAPER:
    _register(_row)
