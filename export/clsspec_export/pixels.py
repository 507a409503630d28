"""The patch embedding of an exported graph: bytes in, tokens out, as one product.

A product and not a convolution, which is the same here: ONNX Runtime and OpenVINO are as fast with
it or faster, and oneDNN's bf16 convolution with AMX is wrong for the channels and patches of 16
that most ViTs have (oneDNN#4684).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clsspec_serve.errors import ExportError
from clsspec_serve.manifest import Preprocessing


class FoldedPixels(nn.Module):
    """`(B, 4, h * patch, w * patch)` bytes to `(B, h * w, D)`, the mean and std folded in."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        width, channels, self.patch, _ = weight.shape
        self.proj = nn.Linear(channels * self.patch**2, width, bias=bias is not None)
        with torch.no_grad():
            self.proj.weight.copy_(weight.flatten(1))
            if bias is not None:
                self.proj.bias.copy_(bias)

    def forward(self, pixels: Tensor) -> Tensor:
        batch, channels, height, width = pixels.shape
        rows, columns = height // self.patch, width // self.patch
        x = pixels.reshape(batch, channels, rows, self.patch, columns, self.patch)
        x = x.permute(0, 2, 4, 1, 3, 5)
        # Bytes are moved, a quarter of what floats would be; TensorRT turns them only into float32.
        # The exporter joins two casts, so that in half precision the reshape has to be between.
        x = x.to(torch.promote_types(self.proj.weight.dtype, torch.float32))
        return self.proj(x.reshape(batch, rows * columns, self.proj.in_features))


def fold_pixels(proj: nn.Conv2d, preprocessing: Preprocessing) -> FoldedPixels:
    """The patch embedding of normalised pixels as one of bytes and coverage.

    `(c / 255 - mean) / std` on covered pixels and 0 on the padding is linear in the bytes (0 in
    the padding) and the coverage (1 or 0): the fourth channel carries `-mean / std`. Raises
    `ExportError` for other patch embeddings than square patches of RGB side by side.
    """
    side = proj.kernel_size[0]
    if proj.kernel_size != (side, side) or proj.stride != (side, side):
        raise ExportError("only a patch embedding of square patches side by side can be folded")
    if proj.padding != (0, 0) or proj.in_channels != 3:
        raise ExportError("only a patch embedding of RGB without padding can be folded")
    weight = proj.weight.detach().double()
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    coverage = -(weight * mean / std).sum(dim=1, keepdim=True)
    return FoldedPixels(torch.cat([weight / (255 * std), coverage], dim=1), proj.bias)
