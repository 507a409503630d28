"""Hugging Face folders of `Dinov2` and `Dinov2WithRegisters`."""

from __future__ import annotations

from functools import partial

from timm.layers import LayerNorm

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import (
    Checkpoint,
    StateDict,
    learned_table,
    load_strict,
    without_register_positions,
)
from clsspec_export.checkpoints.dinov2 import SIZES
from clsspec_export.checkpoints.hf_layout import Config, join_qkv, require_activation, square
from clsspec_export.checkpoints.renaming import Rule, rename
from clsspec_export.specialize import PLAIN, ViT, specialize
from clsspec_serve.manifest import LearnedPosition, Preprocessing

FORMAT = "huggingface-dinov2"
MODEL_TYPES = ("dinov2", "dinov2_with_registers")

_LAYER = r"encoder\.layer\.(\d+)\."
_RULES = [
    Rule(r"embeddings\.mask_token|classifier\..*", None),
    Rule(r"embeddings\.cls_token", "cls_token"),
    Rule(r"embeddings\.register_tokens", "reg_token"),
    Rule(r"embeddings\.position_embeddings", "pos_embed"),
    Rule(r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    Rule(_LAYER + r"attention\.output\.dense\.(.*)", r"blocks.\1.attn.proj.\2"),
    Rule(_LAYER + r"layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    Rule(_LAYER + r"mlp\.weights_in\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    Rule(_LAYER + r"mlp\.weights_out\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    Rule(_LAYER + r"(norm\d|mlp\.fc\d)\.(.*)", r"blocks.\1.\2.\3"),
    Rule(r"layernorm\.(.*)", r"norm.\1"),
]


def read_hf_dinov2(
    state: StateDict, config: Config, preprocessing: Preprocessing, source: str
) -> Checkpoint:
    """A `Dinov2Model` or `Dinov2WithRegistersModel`, alone or inside a classifier.

    Position rule: bicubic by size, antialiased only in the model with registers.
    """
    registers = config["model_type"] == "dinov2_with_registers"
    name, model = _model(config, registers, source)
    state = {key.removeprefix(f"{config['model_type']}."): value for key, value in state.items()}
    parts = dict.fromkeys(("query", "key", "value"), bool(config.get("qkv_bias", True)))
    state = join_qkv(state, "encoder.layer.{block}.attention.attention.{part}", parts, source)
    state = rename(state, _RULES, source)
    if registers:
        state = without_register_positions(state, source)
    load_strict(model, state, source)
    return Checkpoint(
        model=model,
        architecture=name,
        format=FORMAT,
        position=LearnedPosition(grid=model.patch_embed.grid_size, antialias=registers),
        table=learned_table(model),
        preprocessing=preprocessing,
    )


def _model(config: Config, registers: bool, source: str) -> tuple[str, ViT]:
    width, gated = config["hidden_size"], config.get("use_swiglu_ffn", False)
    patch, size = (square(config, field, source) for field in ("patch_size", "image_size"))
    hidden = int(width * config["mlp_ratio"])
    if gated:
        hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    else:
        require_activation(config, "gelu", source)
    variant = "_reg4" if registers else ""
    base = "giant" if gated else "small"
    model = create(
        f"vit_{base}_patch14{variant}_dinov2",
        img_size=size // patch * patch,
        patch_size=patch,
        embed_dim=width,
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        mlp_ratio=(hidden + 0.5) / width,
        qkv_bias=config.get("qkv_bias", True),
        norm_layer=partial(LayerNorm, eps=config["layer_norm_eps"]),
        **({"reg_tokens": config["num_register_tokens"]} if registers else {}),
    )
    size_name = SIZES.get(width, f"{width}x{config['num_hidden_layers']}")
    name = f"vit_{size_name}_patch{patch}{variant}_dinov2"
    return name, specialize(model, PLAIN)
