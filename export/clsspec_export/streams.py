"""The specialized backbone as it is exported: two streams of tokens, joined only where they meet.

Between two products with shared weights each stream goes through its own norms, LayerScales and
residual sums. That spares the slicing and joining around every split layer, about half of what
specialization costs in memory traffic.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from clsspec_export.backbone import Backbone, Tokens
from clsspec_export.specialize import SpecializedBlock, Split


class StreamedBackbone(Backbone):
    """The same function as `Backbone`, for inference."""

    def encode(self, tokens: Tokens, position: Tensor) -> Iterator[tuple[int, bool, Tokens]]:
        """See `Backbone.encode`. Registers are in the stream whose weights they use."""
        rope = position if self.rotary else None
        prefix, patches = self.norm_pre(tokens[0]), self.norm_pre(tokens[1])
        boundary = next(m.boundary for m in self.blocks.modules() if isinstance(m, Split))
        registers = prefix[:, boundary:]
        streams = (prefix[:, :boundary], torch.cat([registers, patches], dim=1))
        for layer, block in enumerate(self.blocks):
            streams = _block(cast(SpecializedBlock, block), streams, rope)
            for norm in self.wanted(layer):
                own, others = _each(self.norm, streams) if norm else streams
                yield layer, norm, (own, others[:, registers.shape[1] :])


def _block(block: SpecializedBlock, streams: Tokens, rope: Tensor | None) -> Tokens:
    normed, qkv = _each(block.norm1, streams), block.attn.qkv
    joined = torch.cat(_each(qkv, normed), dim=1) if isinstance(qkv, Split) else _all(qkv, normed)
    streams = _add(streams, block.ls1, block.attn.attend(joined, rope))
    return _add(streams, block.ls2, _all(block.mlp, _each(block.norm2, streams)))


def _each(layer: nn.Module, streams: Tokens) -> Tokens:
    """A layer that works token by token, on each stream with its own weights."""
    if isinstance(layer, Split):
        return layer.cls(streams[0]), layer.patch(streams[1])
    return layer(streams[0]), layer(streams[1])


def _all(layer: nn.Module, streams: Tokens) -> Tensor:
    """A layer with shared weights, in one product over all tokens."""
    return layer(torch.cat(streams, dim=1))


def _add(streams: Tokens, scale: nn.Module, update: Tensor) -> Tokens:
    boundary = streams[0].shape[1]
    own, others = _each(scale, (update[:, :boundary], update[:, boundary:]))
    return streams[0] + own, streams[1] + others
