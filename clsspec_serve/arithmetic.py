"""The matrix products of a backbone, counted from its description."""

from __future__ import annotations

from typing import NamedTuple

from clsspec_serve.manifest import Architecture


class Product(NamedTuple):
    """A weight of `width_in` x `width_out` applied to `tokens` tokens of one image."""

    layer: str
    tokens: int
    width_in: int
    width_out: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image; a FLOP count is twice this."""
        return self.tokens * self.width_in * self.width_out


def token_counts(architecture: Architecture, grid: tuple[int, int]) -> tuple[int, int]:
    """How many tokens take the [CLS] weights and how many the patch weights where both exist."""
    specialization = architecture.specialization
    with_cls = specialization is None or specialization.registers_with == "cls"
    cls = 1 + architecture.registers if with_cls else 1
    return cls, 1 + architecture.registers + grid[0] * grid[1] - cls


def weight_products(architecture: Architecture, grid: tuple[int, int]) -> list[Product]:
    """Every product with a weight in the blocks, in order, for one image of (h, w) patches.

    A split QKV is two products, each over its own tokens only; the sum is that of the plain twin.
    """
    width = architecture.embed_dim
    cls, patch = token_counts(architecture, grid)
    split = architecture.specialization.qkv_blocks if architecture.specialization else 0
    products = []
    for block in range(architecture.depth):
        name = f"blocks.{block}"
        parts = (
            [("qkv.cls", cls), ("qkv.patch", patch)] if block < split else [("qkv", cls + patch)]
        )
        products += [Product(f"{name}.attn.{part}", n, width, 3 * width) for part, n in parts]
        products.append(Product(f"{name}.attn.proj", cls + patch, width, width))
        products += [Product(f"{name}.mlp", cls + patch, i, o) for i, o in architecture.mlp]
    return products


def total_macs(architecture: Architecture, grid: tuple[int, int]) -> int:
    """Multiply-accumulates of one image: patch embedding (RGB), blocks and attention.

    The attention of N tokens is two products of N x N x D, with one key more under an attention
    bias. Element-wise work and the coverage channel are not counted.
    """
    tokens = sum(token_counts(architecture, grid))
    keys = tokens + architecture.attention_bias
    attention = 2 * architecture.depth * tokens * keys * architecture.embed_dim
    embedding = grid[0] * grid[1] * 3 * architecture.patch_size**2 * architecture.embed_dim
    weights = sum(product.macs for product in weight_products(architecture, grid))
    return embedding + attention + weights
