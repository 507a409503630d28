"""State dicts in the formats of others, written backwards from timm's names."""

from __future__ import annotations

import timm
import torch
from export_helpers import HEADS, WIDTH
from torch import Tensor

from clsspec_export.random_weights import randomize

DINOV2_NAMES = {
    "plain": "vit_test_patch14_dinov2",
    "registers": "vit_test_patch14_reg4_dinov2",
    "swiglu": "vit_testgiant_patch14_dinov2",
}
DEIT3_NAME = "deit3_test_patch16_224"
DINOV3_NAMES = {
    False: "vit_test_patch16_dinov3_qkvb",
    True: "vit_test_plus_patch16_dinov3_qkvb",
}


def timm_state(name: str, seed: int = 5) -> dict[str, Tensor]:
    """timm's own names, random values."""
    model = timm.create_model(name)
    randomize(model, seed)
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def dinov2_state(kind: str, seed: int = 5) -> dict[str, Tensor]:
    """As DINOv2's own code writes it."""
    state = timm_state(DINOV2_NAMES[kind], seed)
    generator = torch.Generator().manual_seed(seed)
    state["mask_token"] = torch.randn(1, WIDTH, generator=generator)
    if kind == "registers":
        state["register_tokens"] = state.pop("reg_token")
        first = torch.randn(1, 1, WIDTH, generator=generator)
        state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
    if kind == "swiglu":
        state = {
            key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value
            for key, value in state.items()
        }
    return state


def deit3_state(seed: int = 5) -> dict[str, Tensor]:
    """As DeiT-III's own code writes it, with its classifier."""
    state = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
        for key, value in timm_state(DEIT3_NAME, seed).items()
    }
    return state | {"head.weight": torch.ones(5, WIDTH), "head.bias": torch.ones(5)}


def dinov3_state(*, gated: bool = False, untied: bool = False, seed: int = 5) -> dict[str, Tensor]:
    """As DINOv3's own code writes it: one masked QKV bias, periods in bf16."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for key, value in timm_state(DINOV3_NAMES[gated], seed).items():
        if key.endswith("v_bias"):
            continue
        name = key.replace("reg_token", "storage_tokens")
        name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        name = name.replace("fc1_g", "w1").replace("fc1_x", "w2")
        state[name.replace("fc2", "w3") if gated else name] = value
    for key in [key for key in state if key.endswith("q_bias")]:
        block = key.removesuffix("q_bias")
        state.pop(key)
        state[f"{block}qkv.bias"] = torch.randn(3 * WIDTH, generator=generator)
        mask = torch.ones(3 * WIDTH)
        mask[WIDTH : 2 * WIDTH] = 0
        state[f"{block}qkv.bias_mask"] = mask
    state["mask_token"] = torch.randn(1, WIDTH, generator=generator)
    head_dim = WIDTH // HEADS
    periods = 100 ** (2 * torch.arange(head_dim // 4) / (head_dim // 2))
    state["rope_embed.periods"] = periods.bfloat16()
    if untied:
        for norm in ("cls_norm", "local_cls_norm"):
            state[f"{norm}.weight"] = torch.randn(WIDTH, generator=generator)
            state[f"{norm}.bias"] = torch.randn(WIDTH, generator=generator)
    return state
