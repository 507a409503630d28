"""The backbone as a function of normalised pixels and a position map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from clsspec_export.pixels import FoldedPixels
from clsspec_export.specialize import ViT
from clsspec_serve.schema import Output

Tokens = tuple[Tensor, Tensor]
"""The prefix tokens `(B, prefix, D)` and the patch tokens `(B, h * w, D)`."""


class PatchEmbedding(nn.Module):
    """The model's own: normalised pixels `(B, C, h * patch, w * patch)` to `(B, h * w, D)`."""

    def __init__(self, proj: nn.Conv2d) -> None:
        super().__init__()
        self.proj = proj
        self.patch: int = proj.kernel_size[0]

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """Features of a specialized ViT, with the position embedding given from outside.

    `image`: `(B, C, h * patch, w * patch)`. `position`: `(h, w, D)`, added to the patch tokens,
    or `(h, w, 2 * head_dim)`, the rotary sine and cosine; the position of the prefix tokens is
    part of them. `embed` replaces the model's patch embedding. Returns one tensor per entry of
    `outputs`: `(B, D)` for `cls`, `(B, h, w, D)` for `patches`.
    """

    def __init__(
        self,
        model: ViT,
        outputs: Sequence[Output],
        embed: PatchEmbedding | FoldedPixels | None = None,
    ) -> None:
        super().__init__()
        self.embed = PatchEmbedding(model.patch_embed.proj) if embed is None else embed
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
        patches = self.embed_norm(self.embed(image))
        batch, _, width = patches.shape
        rows, columns = (side // self.embed.patch for side in image.shape[2:])
        position = position.flatten(0, 1)
        if not self.rotary:
            patches = patches + position
        prefix = self.prefix.expand(batch, -1, -1)
        features: dict[Output, Tensor] = {}
        for layer, norm, tokens in self.encode((prefix, patches), position):
            for output in self.outputs:
                if (output.layer, output.norm) == (layer, norm):
                    features[output] = (
                        tokens[0][:, 0]
                        if output.kind == "cls"
                        else tokens[1].reshape(batch, rows, columns, width)
                    )
        return tuple(features[output] for output in self.outputs)

    def encode(self, tokens: Tokens, position: Tensor) -> Iterator[tuple[int, bool, Tokens]]:
        """Each wanted layer's tokens, without (False) or with (True) the final norm."""
        rope = position if self.rotary else None
        x = self.norm_pre(torch.cat(tokens, dim=1))
        prefix = self.prefix.shape[1]
        for layer, block in enumerate(self.blocks):
            x = block(x, rope=rope)
            for norm in self.wanted(layer):
                y = self.norm(x) if norm else x
                yield layer, norm, (y[:, :prefix], y[:, prefix:])

    def wanted(self, layer: int) -> set[bool]:
        """Whether a layer is put out without (False) and with (True) the final norm."""
        return {output.norm for output in self.outputs if output.layer == layer}


def prefix_tokens(model: ViT) -> Tensor:
    """`(1, prefix, D)`: [CLS] and registers, with their rows of the position table added."""
    parts = [part for part in (model.cls_token, model.reg_token) if part is not None]
    tokens = torch.cat(parts, dim=1)
    if model.pos_embed is not None and not model.no_embed_class:
        tokens = tokens + model.pos_embed[:, : tokens.shape[1]]
    return tokens.detach().clone()
