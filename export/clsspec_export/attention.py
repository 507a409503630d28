"""Self-attention of the specialized blocks: one QKV layer, rotary positions, attention bias."""

from __future__ import annotations

import torch
from timm.layers import apply_rot_embed_cat
from timm.models.eva import EvaAttention
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from clsspec_export.operators import reshape_tokens, scaled_dot_product_attention
from clsspec_serve.errors import UsageError


class AttentionBias(nn.Module):
    """A learnable key k' and value v' per head, put before those of the tokens.

    From Sun et al., *Massive Activations in Large Language Models* (2024). `k`, `v`:
    `(1, heads, 1, head_dim)`.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.k = nn.Parameter(torch.zeros(1, num_heads, 1, head_dim))
        self.v = nn.Parameter(torch.zeros(1, num_heads, 1, head_dim))

    def forward(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """`(B, N, heads, head_dim)` each, to `(B, 1 + N, heads, head_dim)` of the same type."""
        return _after(self.k, k), _after(self.v, v)


class SpecializedAttention(nn.Module):
    """Multi-head self-attention around a QKV layer that may be split by token type.

    `(B, N, D)` in and out. `rope`: `(N - prefix, 2 * head_dim)`, sine then cosine, applied to the
    queries and keys of the patches; the first `prefix` tokens have no position.
    """

    def __init__(
        self,
        *,
        qkv: nn.Module,
        q_norm: nn.Module,
        k_norm: nn.Module,
        proj: nn.Module,
        num_heads: int,
        head_dim: int,
        prefix: int,
        rotate_half: bool,
        attn_drop: float,
        proj_drop: nn.Module,
    ) -> None:
        super().__init__()
        self.qkv: nn.Module = qkv
        self.q_norm, self.k_norm, self.proj, self.proj_drop = q_norm, k_norm, proj, proj_drop
        self.bias: AttentionBias | None = None
        self.num_heads, self.head_dim, self.prefix = num_heads, head_dim, prefix
        self.rotate_half, self.attn_drop = rotate_half, attn_drop

    @classmethod
    def from_timm(cls, attention: Attention | EvaAttention, prefix: int) -> SpecializedAttention:
        """The same attention, weights shared; separate q, k, v weights and biases are joined."""
        if attention.gate is not None or not isinstance(attention.norm, nn.Identity):
            raise UsageError("attention with a gate or with a norm on its output is not supported")
        return cls(
            qkv=_joined_qkv(attention),
            q_norm=attention.q_norm,
            k_norm=attention.k_norm,
            proj=attention.proj,
            num_heads=attention.num_heads,
            head_dim=attention.head_dim,
            prefix=prefix,
            rotate_half=getattr(attention, "rotate_half", False),
            attn_drop=attention.attn_drop.p,
            proj_drop=attention.proj_drop,
        )

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        return self.attend(self.qkv(x), rope)

    def attend(self, qkv: Tensor, rope: Tensor | None = None) -> Tensor:
        """Everything after the QKV layer: `(B, N, 3 * heads * head_dim)` to `(B, N, D)`."""
        parts = qkv.chunk(3, dim=-1)
        q, k, v = (reshape_tokens(part, self.num_heads, self.head_dim) for part in parts)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = self._rotate(q, rope), self._rotate(k, rope)
        if self.bias is not None:
            k, v = self.bias(k, v)
        dropout = self.attn_drop if self.training else 0.0
        x = scaled_dot_product_attention(q, k, v, dropout)
        return self.proj_drop(self.proj(x))

    def _rotate(self, x: Tensor, rope: Tensor) -> Tensor:
        prefix, patches = x[:, : self.prefix], x[:, self.prefix :]
        rotated = apply_rot_embed_cat(patches, rope.unsqueeze(1), half=self.rotate_half)
        return torch.cat([prefix, rotated], dim=1).type_as(x)


def _after(own: Tensor, x: Tensor) -> Tensor:
    """`(1, heads, 1, head_dim)` in front of `(B, N, heads, head_dim)`."""
    own = own.transpose(1, 2).type_as(x)
    return torch.cat([own.expand(x.shape[0], -1, -1, -1), x], dim=1)


def _joined_qkv(attention: Attention | EvaAttention) -> nn.Linear:
    """One `Linear(D, 3 * heads * head_dim)`: EVA keeps biases, or all of q, k, v, apart."""
    if isinstance(attention, Attention):
        return attention.qkv
    width = attention.num_heads * attention.head_dim
    if attention.qkv is not None:
        weight, q_bias, v_bias = attention.qkv.weight, attention.q_bias, attention.v_bias
    else:
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        weight = torch.cat([part.weight for part in parts])
        q_bias, v_bias = attention.q_proj.bias, attention.v_proj.bias
    joined = nn.Linear(weight.shape[1], 3 * width, bias=q_bias is not None)
    with torch.no_grad():
        joined.weight.copy_(weight)
        if q_bias is not None:
            joined.bias.copy_(torch.cat([q_bias, torch.zeros_like(q_bias), v_bias]))
    return joined
