"""How attention is computed on the training's CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.backends import cuda
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def fastest_attention() -> Iterator[None]:
    """Plain matrix products in the dtype of their inputs.

    For a few hundred tokens in bf16 a step is then 1.3 to 1.5 times as fast as with PyTorch's fused
    attention, whose backward pass on a CPU takes a third of it. The switch is PyTorch's for every
    device, in spite of its name.
    """
    # PyTorch has left out the types of this one function.
    before = cuda.fp16_bf16_reduction_math_sdp_allowed()  # type: ignore[no-untyped-call]
    cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        cuda.allow_fp16_bf16_reduction_math_sdp(before)
