"""The paper's low-rank variant of the [CLS] QKV: W_cls = W + B·A, merged into one matrix."""

from __future__ import annotations

from clsspec_export.checkpoints.checkpoint import StateDict
from clsspec_serve.errors import CheckpointError

_A, _B = ".attn.qkv.cls.A", ".attn.qkv.cls.B"


def merge_low_rank(state: StateDict, source: str) -> StateDict:
    """Replace `blocks.N.attn.qkv.cls.{A, B}` by `…cls.weight`, from `…patch.weight`.

    `A`: `(rank, D)`; `B`: `(3D, rank)`. A [CLS] bias that is not stored is the patches' bias.
    Raises `CheckpointError` where a part is missing or the shapes do not multiply.
    """
    merged = dict(state)
    for key in [key for key in state if key.endswith((_A, _B))]:
        block = key.removesuffix(_A).removesuffix(_B)
        own, shared = f"{block}.attn.qkv.cls", f"{block}.attn.qkv.patch"
        needed = (f"{own}.A", f"{own}.B", f"{shared}.weight")
        if lacking := [name for name in needed if name not in state]:
            raise CheckpointError(f"{source}: low-rank QKV of {block} lacks {', '.join(lacking)}")
        if f"{own}.weight" in state:
            raise CheckpointError(f"{source} has {own}.weight beside {own}.A and {own}.B")
        a, b, weight = (state[name].float() for name in needed)
        matrices = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]
        if not matrices or (b.shape[0], a.shape[1]) != tuple(weight.shape):
            raise CheckpointError(
                f"{source}: {own}.B {tuple(b.shape)} times {own}.A {tuple(a.shape)} does not "
                f"have the shape of {shared}.weight {tuple(weight.shape)}"
            )
        merged.pop(key)
        merged[f"{own}.weight"] = weight + b @ a
        if f"{shared}.bias" in state:
            merged.setdefault(f"{own}.bias", state[f"{shared}.bias"].clone())
    return merged
