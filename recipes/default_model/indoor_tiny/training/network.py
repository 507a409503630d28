"""The backbone with the linear decoders that teach it and are dropped afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from clsspec_export.specialize import ViT
from indoor_tiny.classes import CLASSES, ROOMS
from indoor_tiny.training.augment import CELL
from indoor_tiny.training.backbone import new_backbone
from indoor_tiny.training.plan import Plan

_TYPICAL_LOG_DEPTH = 0.9
"""About 2.5 m; what every cell answers first."""


@dataclass(frozen=True)
class Answers:
    """What the decoders say of B pictures, in s x s cells of `CELL` pixels each.

    `classes`: `(B, 17, s, s)` logits. `log_depth`: `(B, s, s)`, of metres. `room`: `(B, 6)`
    logits. `presence`: `(B, 17)` logits of each class being in the picture. `share`: `(B, 17)`
    logits whose softmax is the class's share of the cells.
    """

    classes: Tensor
    log_depth: Tensor
    room: Tensor
    presence: Tensor
    share: Tensor


class DenseNetwork(nn.Module):
    """Linear decoders only, so that what they need is linear in the features.

    A patch's last token gives the classes and the log depth of its 4 x 4 cells, the last [CLS] the
    room and which classes are in the picture, to which share.
    """

    def __init__(self, backbone: ViT) -> None:
        super().__init__()
        width = backbone.embed_dim
        self.cells = backbone.patch_embed.patch_size[0] // CELL
        self.backbone = backbone
        self.classes = _decoder(width, len(CLASSES) * self.cells**2)
        self.depth = _decoder(width, self.cells**2)
        self.room = _decoder(width, len(ROOMS))
        self.presence = _decoder(width, len(CLASSES))
        self.share = _decoder(width, len(CLASSES))
        nn.init.constant_(self.depth.bias, _TYPICAL_LOG_DEPTH)

    def forward(self, images: Tensor) -> Answers:
        """`(B, 3, S, S)`, normalised."""
        tokens = self.backbone.forward_features(images)
        cls, patches = tokens[:, 0], tokens[:, self.backbone.num_prefix_tokens :]
        return Answers(
            classes=self._to_map(self.classes(patches)),
            log_depth=self._to_map(self.depth(patches)).squeeze(1),
            room=self.room(cls).float(),
            presence=self.presence(cls).float(),
            share=self.share(cls).float(),
        )

    def _to_map(self, values: Tensor) -> Tensor:
        """`(B, h * w, c * cells²)` to `(B, c, h * cells, w * cells)` in fp32."""
        batch, patches, rows = values.shape
        side = math.isqrt(patches)
        maps = values.float().transpose(1, 2).reshape(batch, rows, side, side)
        return functional.pixel_shuffle(maps, self.cells)


def new_network(plan: Plan) -> DenseNetwork:
    """The untrained network; the same but for the split with and without `plan.specialized`."""
    backbone = new_backbone(plan)
    torch.manual_seed(plan.seed + 1)
    return DenseNetwork(backbone)


def _decoder(width: int, rows: int) -> nn.Linear:
    layer = nn.Linear(width, rows)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
