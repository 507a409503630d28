"""Hugging Face folders of `DINOv3ViT`."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import LayerNorm

from clsspec_export.checkpoints.checkpoint import Checkpoint, StateDict, load_strict
from clsspec_export.checkpoints.dinov3 import NAMES, converted
from clsspec_export.checkpoints.hf_layout import Config, join_qkv, require_activation, square
from clsspec_export.checkpoints.renaming import Rule, rename
from clsspec_serve.manifest import Preprocessing, RotaryPosition

FORMAT = "huggingface-dinov3"
MODEL_TYPES = ("dinov3_vit",)

_BIASES = {"query": True, "key": False, "value": True}
"""What a configuration means that does not say whether a projection has a bias."""

_LAYER = r"layer\.(\d+)\."
_RULES = [
    Rule(r"embeddings\.mask_token", None),
    Rule(r"embeddings\.cls_token", "cls_token"),
    Rule(r"embeddings\.register_tokens", "reg_token"),
    Rule(r"embeddings\.patch_embeddings\.(.*)", r"patch_embed.proj.\1"),
    Rule(_LAYER + r"attention\.o_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    Rule(_LAYER + r"layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    Rule(_LAYER + r"(norm\d)\.(.*)", r"blocks.\1.\2.\3"),
]
_PLAIN_MLP = [
    Rule(_LAYER + r"mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    Rule(_LAYER + r"mlp\.down_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
]
_GATED_MLP = [
    Rule(_LAYER + r"mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.fc1_g.\2"),
    Rule(_LAYER + r"mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1_x.\2"),
    Rule(_LAYER + r"mlp\.down_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
]


def read_hf_dinov3(
    state: StateDict, config: Config, preprocessing: Preprocessing, source: str
) -> Checkpoint:
    """A `DINOv3ViTModel`. The rotary periods follow from `rope_theta`, in fp32."""
    gated = config.get("use_gated_mlp", False)
    require_activation(config, "silu" if gated else "gelu", source)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    depth, head_dim = config["num_hidden_layers"], width // heads
    biases = {part[0]: config.get(f"{part}_bias", bias) for part, bias in _BIASES.items()}
    base = "vit_small_plus_patch16_dinov3_qkvb" if gated else "vit_small_patch16_dinov3_qkvb"
    model = converted(
        base,
        patch_size=square(config, "patch_size", source),
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=(config["intermediate_size"] + 0.5) / width,
        swiglu_align_to=1,
        num_reg_tokens=config["num_register_tokens"],
        qkv_bias=any(biases.values()),
        norm_layer=partial(LayerNorm, eps=config["layer_norm_eps"]),
    )
    state = {key.removeprefix("model."): value for key, value in state.items()}
    state = join_qkv(state, "layer.{block}.attention.{part}_proj", biases, source)
    state = rename(state, [*_RULES, *(_GATED_MLP if gated else _PLAIN_MLP)], source)
    load_strict(model, state, source)
    # The source multiplies by inverse frequencies; 1 / (1 / x) keeps its rounding.
    inverse = 1 / config["rope_theta"] ** torch.arange(0, 1, 4 / head_dim, dtype=torch.float32)
    return Checkpoint(
        model=model,
        architecture=NAMES.get(
            (width, depth, gated), f"vit_{width}x{depth}_patch16_dinov3"
        ).removesuffix("_qkvb"),
        format=FORMAT,
        position=RotaryPosition(head_dim=head_dim),
        table=1 / inverse,
        preprocessing=preprocessing,
    )
