from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import transformers
from export_checkpoints import DINOV3_NAMES, dinov3_state
from export_helpers import (
    DEPTH,
    HEADS,
    TOLERANCE,
    WIDTH,
    difference,
    features,
    network_input,
    normalised,
    without_registers,
)
from timm.models.eva import checkpoint_filter_fn
from torch import Tensor

from clsspec_export.checkpoints import dinov3
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.checkpoints.source import load_checkpoint
from clsspec_serve.errors import CheckpointError
from clsspec_serve.manifest import RotaryPosition, Specialization

GRIDS = [(4, 4), (2, 3), (7, 5), (1, 1)]


@pytest.fixture(autouse=True)
def _tiny_sizes_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for gated, name in DINOV3_NAMES.items():
        monkeypatch.setitem(dinov3.NAMES, (WIDTH, DEPTH, gated), name)


def _read(state: dict[str, Tensor], folder: Path) -> Checkpoint:
    torch.save(state, folder / "hub.pth")
    return read_checkpoint(folder / "hub.pth")


def _transformers(state: dict[str, Tensor], gated: bool) -> torch.nn.Module:
    """Their model, filled by hand from the hub's names."""
    hidden = state["blocks.0.mlp.w1.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0]
    config = transformers.DINOv3ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=hidden,
        num_register_tokens=state["storage_tokens"].shape[1],
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    filled = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": state["mask_token"][None],
        "embeddings.register_tokens": state["storage_tokens"],
        "norm.weight": state["norm.weight"],
        "norm.bias": state["norm.bias"],
    }
    names = {
        "norm1": "norm1",
        "norm2": "norm2",
        "attn.proj": "attention.o_proj",
        **({"mlp.w1": "mlp.gate_proj", "mlp.w2": "mlp.up_proj", "mlp.w3": "mlp.down_proj"}
           if gated else {"mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}),
    }  # fmt: skip
    for part in ("weight", "bias"):
        filled[f"embeddings.patch_embeddings.{part}"] = state[f"patch_embed.proj.{part}"]
    for index in range(DEPTH):
        own, theirs = f"blocks.{index}", f"model.layer.{index}"
        for old, new in names.items():
            for part in ("weight", "bias"):
                filled[f"{theirs}.{new}.{part}"] = state[f"{own}.{old}.{part}"]
        for number in (1, 2):
            filled[f"{theirs}.layer_scale{number}.lambda1"] = state[f"{own}.ls{number}.gamma"]
        weights = state[f"{own}.attn.qkv.weight"].chunk(3)
        biases = state[f"{own}.attn.qkv.bias"].chunk(3)
        for letter, weight, bias in zip("qkv", weights, biases, strict=True):
            filled[f"{theirs}.attention.{letter}_proj.weight"] = weight
            if letter != "k":
                filled[f"{theirs}.attention.{letter}_proj.bias"] = bias
    model = transformers.DINOv3ViTModel(config).eval()
    model.load_state_dict(filled, strict=True)
    return model


def _fp32_periods(state: dict[str, Tensor]) -> dict[str, Tensor]:
    head_dim = WIDTH // HEADS
    frequencies = 1 / 100.0 ** torch.arange(0, 1, 4 / head_dim, dtype=torch.float32)
    return state | {"rope_embed.periods": 1 / frequencies}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("gated", [False, True])
@torch.inference_mode()
def test_with_fp32_periods_the_features_equal_those_of_transformers(
    gated: bool, grid: tuple[int, int], tmp_path: Path
) -> None:
    state = _fp32_periods(dinov3_state(gated=gated))
    checkpoint = _read(state, tmp_path)
    pixels = network_input(16 * grid[0], 16 * grid[1])
    expected = _transformers(state, gated)(normalised(checkpoint, pixels)).last_hidden_state
    assert difference(features(checkpoint, pixels), without_registers(expected, 4)) <= TOLERANCE


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("gated", [False, True])
@torch.inference_mode()
def test_with_the_stored_periods_the_features_equal_those_of_timm_given_them(
    gated: bool, grid: tuple[int, int], tmp_path: Path
) -> None:
    state = dinov3_state(gated=gated)
    checkpoint = _read(state, tmp_path)
    model = timm.create_model(DINOV3_NAMES[gated]).eval()
    model.load_state_dict(checkpoint_filter_fn(dict(state), model), strict=True)
    own = model.rope.periods.clone()
    model.rope.periods.copy_(state["rope_embed.periods"])
    assert not torch.equal(own, model.rope.periods)
    pixels = network_input(16 * grid[0], 16 * grid[1])
    expected = model.forward_features(normalised(checkpoint, pixels))
    assert difference(features(checkpoint, pixels), without_registers(expected, 4)) <= TOLERANCE
    assert torch.equal(checkpoint.table, model.rope.periods)
    assert checkpoint.position == RotaryPosition(head_dim=WIDTH // HEADS)


@pytest.mark.parametrize("hidden", [0.3, float("nan")])
def test_the_bias_of_the_keys_is_masked_even_where_it_is_nan(hidden: float, tmp_path: Path) -> None:
    state = dinov3_state()
    for index in range(DEPTH):
        state[f"blocks.{index}.attn.qkv.bias"][WIDTH : 2 * WIDTH] = hidden
    model = _read(state, tmp_path).model
    for index, block in enumerate(model.blocks):
        q, k, v = block.attn.qkv.bias.chunk(3)
        stored = state[f"blocks.{index}.attn.qkv.bias"]
        assert not k.any()
        assert torch.equal(q, stored[:WIDTH])
        assert torch.equal(v, stored[2 * WIDTH :])


@pytest.mark.parametrize("grid", GRIDS)
@torch.inference_mode()
def test_an_untied_norm_is_for_cls_and_registers_and_the_other_for_patches(
    grid: tuple[int, int], tmp_path: Path
) -> None:
    state = _fp32_periods(dinov3_state(untied=True))
    checkpoint = _read(state, tmp_path)
    pixels = network_input(16 * grid[0], 16 * grid[1])
    model = _transformers(state, gated=False)
    image = normalised(checkpoint, pixels)
    raw: list[Tensor] = []
    model.norm.register_forward_hook(lambda module, args, output: raw.append(args[0]))
    model(image)
    centred = raw[0] - raw[0].mean(-1, keepdim=True)
    unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    first, rest = (
        unit * state[f"{norm}.weight"] + state[f"{norm}.bias"] for norm in ("cls_norm", "norm")
    )
    expected = torch.cat([first[:, :1], rest[:, 5:]], dim=1)
    assert difference(features(checkpoint, pixels), expected) <= TOLERANCE
    normed = checkpoint.model.norm(raw[0])
    assert difference(normed[:, :5], first[:, :5]) <= TOLERANCE
    assert checkpoint.model.specialization == Specialization(
        norms=False, layer_scale=False, qkv_blocks=0
    )


def test_a_training_file_gives_the_teacher(tmp_path: Path) -> None:
    state = dinov3_state()
    bare = _read(state, tmp_path).model.state_dict()
    wrapped = {f"backbone.{key}": value for key, value in state.items()}
    found = _read({"teacher": wrapped | {"dino_head.x": torch.ones(1)}}, tmp_path)
    assert found.format == "dinov3"
    assert all(torch.equal(value, bare[key]) for key, value in found.model.state_dict().items())


def test_a_size_that_is_not_known_is_refused_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(dinov3.NAMES, (WIDTH, DEPTH, True))
    with pytest.raises(CheckpointError, match=r"32 wide and 3 deep, gated; .*384 x 12"):
        _read(dinov3_state(gated=True), tmp_path)


def test_the_preprocessing_is_the_published_one(tmp_path: Path) -> None:
    checkpoint = _read(dinov3_state(), tmp_path)
    assert checkpoint.preprocessing.size == (256, 256)
    assert checkpoint.preprocessing.policy == "squash"
    assert checkpoint.architecture == "vit_test_patch16_dinov3"


def test_the_satellite_model_is_known_by_its_local_norm_and_normalised_as_published(
    tmp_path: Path,
) -> None:
    satellite = _read(dinov3_state(untied=True), tmp_path).preprocessing
    assert satellite.mean == (0.430, 0.411, 0.296)
    assert satellite.std == (0.213, 0.156, 0.143)


def test_the_licence_of_the_weights_is_known_from_their_format(tmp_path: Path) -> None:
    torch.save(dinov3_state(), tmp_path / "dinov3.pth")
    assert load_checkpoint(str(tmp_path / "dinov3.pth"))[1].licence == "dinov3-license"
