"""The architectures of the paper's table, and DINOv3's, as data: what each is built from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SUFFIX = "_clsspec"
"""What the name of a specialized architecture ends with."""

_HUGE = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
"""ViT-H as the paper has it; timm's DINOv2 family goes S, B, L, g. Head size 80."""


@dataclass(frozen=True)
class Row:
    """One architecture: timm's `base` with fixed `arguments`, specialized or not."""

    name: str
    base: str
    specialized: bool
    attention_bias: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)


def _rows() -> Iterator[Row]:
    for size in ("small", "base", "large", "huge"):
        huge = size == "huge"
        for variant in ("", "_reg4", "_attnbias"):
            bias = variant == "_attnbias"
            registers = "" if bias else variant
            base = f"vit_{'large' if huge else size}_patch14{registers}_dinov2"
            name = f"vit_{size}_patch14{variant}_dinov2"
            arguments = _HUGE if huge else {}
            if bias or huge:  # the others are timm's own
                yield Row(name, base, False, bias, arguments)
            yield Row(name + SUFFIX, base, True, bias, arguments)
    deit = "deit3_base_patch16_224"
    yield Row(deit + SUFFIX, deit, True)
    yield Row(f"{deit}_attnbias", deit, False, True)
    yield Row(f"{deit}_attnbias{SUFFIX}", deit, True, True)
    for size in ("small", "base", "large"):
        base = f"vit_{size}_patch16_dinov3"
        yield Row(base + SUFFIX, f"{base}_qkvb", True)


PAPER = tuple(_rows())
"""Rows that timm does not have under its own name."""
