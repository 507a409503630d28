"""How alike [CLS] and patches are inside of every block: the analysis of arXiv 2602.08626."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clsspec_export.backbone import Backbone, Tokens
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.reference import Reference, torch_position
from clsspec_export.specialize import SpecializedBlock, ViT
from clsspec_serve.choices import Policy
from clsspec_serve.errors import CheckpointError, ImageError, UsageError
from clsspec_serve.images import DEFAULT_LIMITS, ImageLimits, read_image
from clsspec_serve.schema import Output
from clsspec_serve.transform import Size, transform

POINTS = {
    "before_norm1": "before LayerNorm 1",
    "after_norm1": "after LayerNorm 1",
    "attention": "output of attention",
    "attention_scaled": "output of attention, after LayerScale",
    "before_norm2": "before LayerNorm 2",
    "after_norm2": "after LayerNorm 2",
    "mlp": "output of the MLP",
    "mlp_scaled": "output of the MLP, after LayerScale",
    "block_output": "output of the block",
    "after_final_norm": "after the final norm",
}
"""Where a block is measured, in its own order, and what that is called in words.

The output of attention is that of its projection. What comes before LayerNorm 2 is the residual
sum with attention; the output of the block, that with the MLP, is what the next block has before
LayerNorm 1. The two `scaled` are there in models with LayerScale, the last one in models with a
final norm, at their last block.
"""

POSITION_CACHE = 32
"""Position maps kept; each takes h * w * D * 4 bytes."""

Observe = Callable[[int, str, Tensor], None]
"""Is given the block (from 0), the point and all tokens `(B, prefix + h * w, D)` there."""


@dataclass(frozen=True)
class Row:
    """The cosine similarities at one point of one block.

    `cls_patch_mean`: of [CLS] to a patch, the mean over the patches of a picture, then over the
    pictures. `patch_patch_mean`: of two different patches of a picture, the mean over all pairs,
    then over the pictures. Each `std` is the sample standard deviation over the pictures of what
    is averaged last; None for a single picture. Registers are no patches.
    """

    block: int
    point: str
    images: int
    cls_patch_mean: float
    cls_patch_std: float | None
    patch_patch_mean: float
    patch_patch_std: float | None


class ObservedBackbone(Backbone):
    """The same function as `Backbone`, which shows its tokens at every point on the way."""

    def __init__(self, model: ViT, observe: Observe, outputs: Sequence[Output] = ()) -> None:
        super().__init__(model, outputs)
        self.observe = observe

    def encode(self, tokens: Tokens, position: Tensor) -> Iterator[tuple[int, bool, Tokens]]:
        """See `Backbone.encode`."""
        rope = position if self.rotary else None
        x = self.norm_pre(torch.cat(tokens, dim=1))
        prefix = self.prefix.shape[1]
        for layer, block in enumerate(self.blocks):
            for point, values in _walk(cast(SpecializedBlock, block), x, rope):
                self.observe(layer, point, values)
            x = values  # the last point of a block is its output
            for norm in self.wanted(layer):
                y = self.norm(x) if norm else x
                yield layer, norm, (y[:, :prefix], y[:, prefix:])
        if not isinstance(self.norm, nn.Identity):
            self.observe(len(self.blocks) - 1, "after_final_norm", self.norm(x))


def _walk(block: SpecializedBlock, x: Tensor, rope: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """`SpecializedBlock.forward`, step by step."""
    yield "before_norm1", x
    update = block.norm1(x)
    yield "after_norm1", update
    update = block.attn(update, rope=rope)
    yield "attention", update
    update = block.ls1(update)
    if not isinstance(block.ls1, nn.Identity):
        yield "attention_scaled", update
    x = x + block.drop_path1(update)
    yield "before_norm2", x
    update = block.norm2(x)
    yield "after_norm2", update
    update = block.mlp(update)
    yield "mlp", update
    update = block.ls2(update)
    if not isinstance(block.ls2, nn.Identity):
        yield "mlp_scaled", update
    yield "block_output", x + block.drop_path2(update)


def similarities(cls: Tensor, patches: Tensor) -> tuple[float, float]:
    """The mean cosine of `cls` `(D,)` to the `patches` `(N, D)`, and that of their N(N-1)/2 pairs.

    In float64. The sum over all ordered pairs of unit vectors, |Σu|², less that of each with
    itself, spares the N x N matrix. A vector of zeros has no direction; its similarities are 0.
    """
    cls, patches = cls.double(), patches.double()
    count = len(patches)
    own, norms = cls.norm(), patches.norm(dim=-1)
    total = torch.where(norms > 0, 1 / norms, 0.0) @ patches
    mean = cls @ total / torch.where(own > 0, own, 1.0) / count
    pairs = (total @ total - (norms > 0).sum()) / (count * (count - 1))
    return float(mean), float(pairs)


@torch.inference_mode()
def analyze(checkpoint: Checkpoint, pictures: Iterable[NDArray[np.uint8]]) -> list[Row]:
    """Run pictures, `(4, H, W)` uint8 as `transform` gives them, through the model one by one.

    Returns a row for each block and point, in the model's order. What is kept does not grow with
    the number of pictures. Raises `UsageError` without any and for one of a single patch,
    `CheckpointError` where the model's values are not finite.
    """
    found: dict[tuple[int, str], tuple[float, float]] = {}
    prefix = checkpoint.model.num_prefix_tokens

    def observe(block: int, point: str, tokens: Tensor) -> None:
        pair = similarities(tokens[0, 0], tokens[0, prefix:])
        if not all(map(math.isfinite, pair)):
            raise CheckpointError(f"block {block}, {POINTS[point]}: the values are not finite")
        found[block, point] = pair

    model = ObservedBackbone(checkpoint.model, observe).eval()
    patch = model.embed.patch
    normalise = Reference(checkpoint, ()).normalise
    position = lru_cache(POSITION_CACHE)(
        partial(torch_position, checkpoint.position, checkpoint.table)
    )
    moments = _Moments()
    for pixels in pictures:
        grid = (pixels.shape[1] // patch, pixels.shape[2] // patch)
        if grid == (1, 1):
            raise UsageError("a picture of one patch has no pairs; a larger --size gives it some")
        model(normalise(pixels[None]), position(grid))
        moments.add(np.array(list(found.values())))
    if moments.count == 0:
        raise UsageError("no pictures; the analysis needs one or more")
    return [
        Row(block, point, moments.count, *cls, *patches)
        for (block, point), (cls, patches) in zip(found, moments.pairs(), strict=True)
    ]


def prepare(
    checkpoint: Checkpoint,
    image: Path,
    *,
    size: Size | None = None,
    policy: Policy | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """Read a picture and transform it as the checkpoint's source does: `(4, H, W)` uint8.

    `size` (H, W) and `policy` replace the source's own. Raises `ImageError` naming the file.
    """
    pixels = read_image(image, limits)
    patch = checkpoint.model.patch_embed.proj.kernel_size[0]
    try:
        return transform(pixels, checkpoint.preprocessing, patch, size=size, policy=policy)[0]
    except ImageError as error:
        raise ImageError(f"{image}: {error}") from error


class _Moments:
    """Mean and deviation of arrays that come one after the other (Welford, 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: NDArray[np.float64] = np.zeros(())
        self._squares: NDArray[np.float64] = np.zeros(())

    def add(self, values: NDArray[np.float64]) -> None:
        self.count += 1
        before = values - self._mean
        self._mean = self._mean + before / self.count
        self._squares = self._squares + before * (values - self._mean)

    def pairs(self) -> list[list[tuple[float, float | None]]]:
        """(mean, deviation) in place of each value."""
        deviations = np.sqrt(self._squares / max(self.count - 1, 1)).tolist()
        return [
            [(mean, None if self.count == 1 else std) for mean, std in zip(*line, strict=True)]
            for line in zip(self._mean.tolist(), deviations, strict=True)
        ]


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per row under the names of its fields, numbers in full; None is left empty."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        names = [field.name for field in fields(Row)]
        writer = csv.DictWriter(stream, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
