"""Linear heads as PyTorch modules, in the form that is exported.

All products are taken at the resolution of the patches: a linear layer commutes with the bilinear
upsampling that the official code does first, and [CLS] is multiplied once, not for every patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from clsspec_export.heads.linear import LinearHead
from clsspec_serve.choices import Feature
from clsspec_serve.heads import ClassificationHead, DepthHead, SegmentationHead

BIN_FLOOR = 0.1
"""What the official depth heads add to relu(logit), so that the weights never sum to 0."""


def module(head: LinearHead) -> nn.Module:
    """The head's function of its inputs, in their order; outputs as its description says."""
    if isinstance(head.description, ClassificationHead):
        return Classify(head)
    if isinstance(head.description, SegmentationHead):
        return DenseLinear(head)
    return (
        Bins(head, head.description)
        if head.description.bins > 1
        else Regression(head, head.description)
    )


class DenseLinear(nn.Module):
    """Logits `(B, h, w, K)` from patches `(B, h, w, D)` and, for each of them, [CLS]s `(B, D)`."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        kinds = [output.kind for output in head.description.inputs]
        parts = head.weight.chunk(len(kinds), dim=1)
        self.kinds = kinds
        # Not called as the inputs are: in the graph, both are names.
        self.patch_weight = nn.Parameter(_stack(parts, kinds, "patches"), requires_grad=False)
        self.has_cls = "cls" in kinds
        if self.has_cls:
            self.cls_weight = nn.Parameter(_stack(parts, kinds, "cls"), requires_grad=False)
        self.bias = nn.Parameter(head.bias, requires_grad=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        logits = _of_kind(inputs, self.kinds, "patches") @ self.patch_weight + self.bias
        if self.has_cls:
            shared = _of_kind(inputs, self.kinds, "cls") @ self.cls_weight
            logits = logits + shared[:, None, None]
        return logits


class Depth(DenseLinear):
    """What the two kinds of depth head share: `(B, K, u*h, u*w)` values, and the range."""

    def __init__(self, head: LinearHead, description: DepthHead) -> None:
        super().__init__(head)
        self.upsample = description.upsample
        self.minimum, self.maximum = description.minimum, description.maximum

    def values(self, inputs: tuple[Tensor, ...]) -> Tensor:
        x = DenseLinear.forward(self, *inputs).permute(0, 3, 1, 2)
        if self.upsample == 1:
            return x
        return functional.interpolate(x, scale_factor=float(self.upsample), mode="bilinear")


class Bins(Depth):
    """Depth `(B, u*h, u*w)`: the expectation over evenly spread depths (AdaBins' linear norm)."""

    def __init__(self, head: LinearHead, description: DepthHead) -> None:
        super().__init__(head, description)
        bins = torch.linspace(self.minimum, self.maximum, description.bins)
        sums = torch.stack([bins, torch.ones_like(bins)])
        self.sums = nn.Parameter(sums[:, :, None, None], requires_grad=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        weights = functional.relu(self.values(inputs)) + BIN_FLOOR
        weighted, total = functional.conv2d(weights, self.sums).unbind(dim=1)
        return (weighted / total).clamp(self.minimum, self.maximum)


class Regression(Depth):
    """Depth `(B, u*h, u*w)`: relu of the only value, plus the minimum."""

    def forward(self, *inputs: Tensor) -> Tensor:
        depth = functional.relu(self.values(inputs)[:, 0]) + self.minimum
        return depth.clamp(self.minimum, self.maximum)


class Classify(nn.Module):
    """Logits `(B, K)` from [CLS]s `(B, D)` and the mean over the patches `(B, h, w, D)`."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.kinds = [output.kind for output in head.description.inputs]
        self.weight = nn.Parameter(head.weight, requires_grad=False)
        self.bias = nn.Parameter(head.bias, requires_grad=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = [
            x.mean(dim=(1, 2)) if kind == "patches" else x
            for x, kind in zip(inputs, self.kinds, strict=True)
        ]
        return functional.linear(torch.cat(parts, dim=-1), self.weight, self.bias)


def _stack(parts: tuple[Tensor, ...], kinds: Sequence[Feature], kind: Feature) -> Tensor:
    """`(n * D, K)`: the columns of the weight that belong to inputs of one kind, transposed."""
    own = [part for part, each in zip(parts, kinds, strict=True) if each == kind]
    return torch.cat(own, dim=1).T.contiguous()


def _of_kind(inputs: tuple[Tensor, ...], kinds: Sequence[Feature], kind: Feature) -> Tensor:
    own = [x for x, each in zip(inputs, kinds, strict=True) if each == kind]
    return own[0] if len(own) == 1 else torch.cat(own, dim=-1)
