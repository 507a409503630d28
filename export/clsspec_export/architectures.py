"""The paper's architectures by name, plain and specialized, registered with timm.

`vit_{small,base,large,huge}_patch14[_reg4|_attnbias]_dinov2[_clsspec]`,
`deit3_base_patch16_224[_attnbias][_clsspec]` and `vit_{small,base,large}_patch16_dinov3_clsspec`.
Names without a suffix of ours that timm has already are timm's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import timm
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from clsspec_export.specialize import (
    PLAIN,
    ViT,
    has_attention_bias,
    paper_specialization,
    specialization_of,
    specialize,
)
from clsspec_serve.errors import UsageError
from clsspec_serve.manifest import Architecture, Specialization

SUFFIX = "_clsspec"

_HUGE = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
"""ViT-H as the paper has it; timm's DINOv2 family goes S, B, L, g. Head size 80."""


def create(name: str, **kwargs: Any) -> ViT:
    """`timm.create_model` for a name of ours or of timm, in eval mode and without classifier.

    Raises `UsageError` for an unknown name and for a model that is not a ViT clsspec handles.
    """
    if not timm.is_model(name):
        raise UsageError(
            f"{name!r} is not an architecture that timm or clsspec knows; "
            "`clsspec models` lists clsspec's, timm.list_models() timm's"
        )
    model = timm.create_model(name, **({"num_classes": 0} | kwargs)).eval()
    if not isinstance(model, VisionTransformer | Eva):
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
        patch_size=model.patch_embed.patch_size[0],
        registers=model.num_prefix_tokens - 1,
        final_norm=not isinstance(model.norm, nn.Identity),
        attention_bias=has_attention_bias(model),
        specialization=None if specialization == PLAIN else specialization,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def list_architectures() -> list[str]:
    """Every name that this module registers."""
    return sorted(_REGISTERED)


_REGISTERED: list[str] = []


def _register(
    name: str, base: str, *, attention_bias: bool = False, split: bool = False, **fixed: Any
) -> None:
    """Register `name` with timm: `base` with fixed arguments, converted to our blocks.

    `pretrained=True` loads the weights of `base`, which the conversion leaves as they are.
    """

    def build(
        pretrained: bool = False, specialization: Specialization | None = None, **kwargs: Any
    ) -> ViT:
        model = timm.create_model(base, pretrained=pretrained, **(fixed | kwargs))
        default = paper_specialization(len(model.blocks)) if split else PLAIN
        return specialize(model, specialization or default, attention_bias=attention_bias)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"{base}, {'specialized' if split else 'plain'}."
    entry: Callable[..., ViT] = register_model(build)
    setattr(sys.modules[__name__], name, entry)
    _REGISTERED.append(name)


def _register_all() -> None:
    for variant in ("", "_reg4", "_attnbias"):
        plain = "_reg4" if variant == "_reg4" else ""
        for size in ("small", "base", "large", "huge"):
            base = f"vit_{'large' if size == 'huge' else size}_patch14{plain}_dinov2"
            fixed: dict[str, Any] = _HUGE if size == "huge" else {}
            bias = variant == "_attnbias"
            name = f"vit_{size}_patch14{variant}_dinov2"
            if bias or size == "huge":
                _register(name, base, attention_bias=bias, **fixed)
            _register(name + SUFFIX, base, attention_bias=bias, split=True, **fixed)
    deit = "deit3_base_patch16_224"
    _register(deit + SUFFIX, deit, split=True)
    _register(deit + "_attnbias", deit, attention_bias=True)
    _register(deit + "_attnbias" + SUFFIX, deit, attention_bias=True, split=True)
    for size in ("small", "base", "large"):
        base = f"vit_{size}_patch16_dinov3"
        _register(base + SUFFIX, base + "_qkvb", split=True)


_register_all()
