"""The heads' functions the way round in which the official code computes them.

Patches are `(B, D, h, w)`, [CLS]s `(B, D)`. Sources: facebookresearch/dinov2, the BNHeads of
`eval/segmentation` and `eval/depth`, `DepthBaseDecodeHead.depth_pred`, `hub/classifiers.py`;
facebookresearch/dinov3, the LinearHeads of `eval/segmentation` and `eval/depth`,
`FeaturesToDepth`, `eval/linear.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from head_files import State
from torch import Tensor, nn
from torch.nn import functional

Tokens = tuple[Tensor, Tensor]
"""Patches and [CLS]s of one layer."""


def segmentation(state: State, patches: Sequence[Tensor]) -> Tensor:
    """Logits `(B, K, h, w)` of both code bases, which name their layers differently."""
    norm, conv = ("bn", "conv_seg") if "conv_seg.weight" in state else ("batchnorm_layer", "conv")
    x = _batch_norm(state, norm, torch.cat(list(patches), dim=1))
    return functional.conv2d(x, state[f"{conv}.weight"], state[f"{conv}.bias"])


def dinov2_depth(state: State, layers: Sequence[Tokens], nearest: float, farthest: float) -> Tensor:
    """Metres `(B, 4h, 4w)`: the features are enlarged, and then multiplied."""
    parts = []
    for patches, cls in layers:
        shared = cls[:, :, None, None].expand_as(patches)
        x = torch.cat([patches, shared], dim=1)
        size = [4 * side for side in layers[0][0].shape[2:]]
        parts.append(functional.interpolate(x, size, mode="bilinear", align_corners=False))
    return _metres(state, torch.cat(parts, dim=1), nearest, farthest)


def dinov3_depth(
    state: State, layers: Sequence[Tokens], nearest: float, farthest: float, *, cls: bool
) -> Tensor:
    """Metres `(B, h, w)`."""
    parts = []
    for patches, token in layers:
        parts.append(patches)
        if cls:
            parts.append(token[:, :, None, None].expand_as(patches))
    x = torch.cat(parts, dim=1)
    if "batchnorm_layer.weight" in state:
        x = _batch_norm(state, "batchnorm_layer", x)
    return _metres(state, x, nearest, farthest)


def classifier(state: State, layers: Sequence[Tokens], *, pooled: bool) -> Tensor:
    """Logits `(B, K)`."""
    parts = [cls for _, cls in layers]
    if pooled:
        parts.append(layers[-1][0].flatten(2).mean(dim=2))
    return torch.cat(parts, dim=1) @ state["weight"].T + state["bias"]


def _batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    norm = nn.BatchNorm2d(x.shape[1])
    norm.load_state_dict(
        {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
    )
    return norm.eval()(x).detach()


def _metres(state: State, x: Tensor, nearest: float, farthest: float) -> Tensor:
    logits = functional.conv2d(x, state["conv_depth.weight"], state["conv_depth.bias"])
    if logits.shape[1] == 1:
        depth = logits.relu()[:, 0] + nearest
    else:
        weights = logits.relu() + 0.1
        weights = weights / weights.sum(dim=1, keepdim=True)
        depth = torch.einsum(
            "bkhw,k->bhw", weights, torch.linspace(nearest, farthest, logits.shape[1])
        )
    return depth.clamp(nearest, farthest)
