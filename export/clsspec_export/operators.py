"""Functions that a graph has in another form than PyTorch computes them in."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def scaled_dot_product_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
    """`(B, N, heads, head_dim)` each, to `(B, N, heads * head_dim)`; N of k and v may be another.

    `dropout`: the share of attention weights that PyTorch drops; a graph has none. In a graph it is
    ONNX's operator on three axes: runtimes take each head's part of a token where it lies, and
    nothing is transposed before or after.
    """
    heads, width = q.shape[2:]
    if torch.onnx.is_in_onnx_export():
        flat = (reshape_tokens(part, heads * width) for part in (q, k, v))
        found: Tensor = torch.onnx.ops.attention(*flat, q_num_heads=heads, kv_num_heads=heads)[0]
        return found
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    x = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    return reshape_tokens(x.transpose(1, 2), heads * width)


def reshape_tokens(x: Tensor, *sides: int) -> Tensor:
    """`(B, N, ...)` to `(B, N, *sides)`.

    In a graph the shape is a constant, with 0 for the axes that stay. Otherwise the exporter
    computes it of the sizes of the inputs, which ONNX Runtime's inference of shapes cannot follow:
    where nothing else tells it, it takes the width of what goes into `Attention` for 0.
    """
    shape = (*x.shape[:2], *sides)
    if not torch.onnx.is_in_onnx_export():
        return x.reshape(shape)
    kept = torch.tensor([0, 0, *sides])
    found: Tensor = torch.onnx.ops.symbolic("Reshape", (x, kept), dtype=x.dtype, shape=shape)
    return found
