"""The backbone as a function of normalised pixels and a position map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clsspec_export.specialize import ViT
from clsspec_serve.manifest import Output


class Backbone(nn.Module):
    """Features of a specialized ViT, with the position embedding given from outside.

    `image`: `(B, C, h * patch, w * patch)`. `position`: `(h, w, D)`, added to the patch tokens,
    or `(h, w, 2 * head_dim)`, the rotary sine and cosine; the position of the prefix tokens is
    part of them. `proj` replaces the model's patch embedding. Returns one tensor per entry of
    `outputs`: `(B, D)` for `cls`, `(B, h, w, D)` for `patches`.
    """

    def __init__(
        self, model: ViT, outputs: Sequence[Output], proj: nn.Conv2d | None = None
    ) -> None:
        super().__init__()
        self.proj = model.patch_embed.proj if proj is None else proj
        self.embed_norm = model.patch_embed.norm
        self.prefix = nn.Parameter(prefix_tokens(model), requires_grad=False)
        self.norm_pre = model.norm_pre
        self.blocks = nn.ModuleList(model.blocks)
        self.norm = model.norm
        self.rotary = model.pos_embed is None
        head_dim = model.blocks[0].attn.head_dim
        self.position_width = 2 * head_dim if self.rotary else model.embed_dim
        self.outputs = tuple(outputs)

    def forward(self, image: Tensor, position: Tensor) -> tuple[Tensor, ...]:
        x = self.proj(image.to(self.proj.weight.dtype))
        batch, width, rows, columns = x.shape
        x = self.embed_norm(x.flatten(2).transpose(1, 2))
        position = position.flatten(0, 1)
        if not self.rotary:
            x = x + position
        x = self.norm_pre(torch.cat([self.prefix.expand(batch, -1, -1), x], dim=1))
        rope = position if self.rotary else None
        tokens = {}
        for layer, block in enumerate(self.blocks):
            x = block(x, rope=rope)
            tokens[layer, False] = x
            if any(output.layer == layer and output.norm for output in self.outputs):
                tokens[layer, True] = self.norm(x)
        prefix = self.prefix.shape[1]
        return tuple(
            tokens[output.layer, output.norm][:, 0]
            if output.kind == "cls"
            else tokens[output.layer, output.norm][:, prefix:].reshape(batch, rows, columns, width)
            for output in self.outputs
        )


def prefix_tokens(model: ViT) -> Tensor:
    """`(1, prefix, D)`: [CLS] and registers, with their rows of the position table added."""
    parts = [part for part in (model.cls_token, model.reg_token) if part is not None]
    tokens = torch.cat(parts, dim=1)
    if model.pos_embed is not None and not model.no_embed_class:
        tokens = tokens + model.pos_embed[:, : tokens.shape[1]]
    return tokens.detach().clone()
