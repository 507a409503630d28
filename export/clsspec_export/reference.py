"""The PyTorch model as the yardstick: normalised pixels, torch's own resize of the positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.heads.linear import LinearHead
from clsspec_export.heads.modules import module
from clsspec_serve.layers import TASKS
from clsspec_serve.manifest import LearnedPosition, RotaryPosition
from clsspec_serve.parity import Sample
from clsspec_serve.schema import Output

REFERENCE_BYTES = 1_900_000
"""What the reference outputs of a bundle may take before the file's own overhead."""


class Reference:
    """Features and heads as PyTorch computes them, sharing no code with the runtime side."""

    def __init__(
        self, checkpoint: Checkpoint, outputs: Sequence[Output], heads: Sequence[LinearHead] = ()
    ) -> None:
        self._checkpoint = checkpoint
        self._heads = [(head.description, module(head).eval()) for head in heads]
        self._backbone = Backbone(checkpoint.model, outputs).eval()

    @torch.inference_mode()
    def sample(self, pixels: NDArray[np.uint8]) -> Sample:
        """Run `(B, 4, H, W) uint8` and keep the outputs, fp32."""
        patch = self._backbone.embed.patch
        grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        position = torch_position(self._checkpoint.position, self._checkpoint.table, grid)
        values = self._backbone(self.normalise(pixels), position)
        names = (output.name for output in self._backbone.outputs)
        found: dict[str, Tensor] = dict(zip(names, values, strict=True))
        for description, head in self._heads:
            inputs = [found[output.name] for output in description.inputs]
            found[description.task] = head(*inputs)
        return Sample(pixels, {name: value.numpy() for name, value in found.items()})

    def normalise(self, pixels: NDArray[np.uint8]) -> Tensor:
        """`(B, 3, H, W)` float32: bytes to [0, 1], minus mean, over std; the padding is 0."""
        tensor = torch.from_numpy(pixels)
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (
                self._checkpoint.preprocessing.mean,
                self._checkpoint.preprocessing.std,
            )
        )
        return (tensor[:, :3].float() / 255 - mean) / std * tensor[:, 3:]


def shrink(samples: Sequence[Sample]) -> list[Sample]:
    """One picture of each sample, with as many outputs as fit, the default and small ones first."""
    left = REFERENCE_BYTES
    kept: list[dict[str, NDArray[Any]]] = [{} for _ in samples]
    values = [
        (name not in TASKS, index, sample.outputs[name][:1].nbytes, name)
        for index, sample in enumerate(samples)
        for name in sample.outputs
    ]
    for _, index, _, name in sorted(values):
        value = samples[index].outputs[name][:1]
        if value.nbytes <= left:
            left -= value.nbytes
            kept[index][name] = value
    return [
        Sample(sample.pixels[:1], outputs) for sample, outputs in zip(samples, kept, strict=True)
    ]


def torch_position(
    position: LearnedPosition | RotaryPosition, table: Tensor, grid: tuple[int, int]
) -> Tensor:
    """`(h, w, C)`: the position input by the source's rule, computed by PyTorch."""
    if isinstance(position, RotaryPosition):
        return _torch_rotary(table, grid)
    if grid == position.grid:
        return table
    image = table.permute(2, 0, 1).unsqueeze(0)
    if position.offset:
        scale = tuple((n + position.offset) / n0 for n, n0 in zip(grid, position.grid, strict=True))
        resized = functional.interpolate(
            image, scale_factor=scale, mode="bicubic", antialias=position.antialias
        )
    else:
        resized = functional.interpolate(
            image, size=grid, mode="bicubic", antialias=position.antialias
        )
    return resized[0].permute(1, 2, 0)


def _torch_rotary(periods: Tensor, grid: tuple[int, int]) -> Tensor:
    rows, columns = ((torch.arange(n) + 0.5) / n * 2 - 1 for n in grid)
    coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    angles = (2 * torch.pi * coordinates.unsqueeze(-1) / periods).flatten(2).repeat(1, 1, 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
