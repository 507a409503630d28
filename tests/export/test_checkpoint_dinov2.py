from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from export_checkpoints import DINOV2_NAMES, dinov2_state
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
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor
from torch.nn import functional

from clsspec_export.checkpoints import dinov2
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_serve.errors import CheckpointError
from clsspec_serve.manifest import LearnedPosition

SIDE = 4


def _timm(kind: str, state: dict[str, Tensor]) -> VisionTransformer:
    model = timm.create_model(DINOV2_NAMES[kind], dynamic_img_size=True).eval()
    model.load_state_dict(checkpoint_filter_fn(dict(state), model), strict=True)
    return model


def _read(kind: str, content: Any, path: Path) -> Checkpoint:
    torch.save(content, path)
    return read_checkpoint(path, architecture=DINOV2_NAMES[kind])


def _registers(kind: str) -> int:
    return 4 if kind == "registers" else 0


@pytest.mark.parametrize("kind", DINOV2_NAMES)
@torch.inference_mode()
def test_features_at_the_native_grid_equal_those_of_timm(kind: str, tmp_path: Path) -> None:
    state = dinov2_state(kind)
    checkpoint = _read(kind, state, tmp_path / "hub.pth")
    pixels = network_input(14 * SIDE, 14 * SIDE)
    expected = _timm(kind, state).forward_features(normalised(checkpoint, pixels))
    found = features(checkpoint, pixels)
    assert difference(found, without_registers(expected, _registers(kind))) <= TOLERANCE


def hub_positions(table: Tensor, grid: tuple[int, int], *, registers: bool) -> Tensor:
    """`interpolate_pos_encoding` of DINOv2's hub models on `(1, 1 + M * M, D)`."""
    side, width = int((table.shape[1] - 1) ** 0.5), table.shape[2]
    if grid == (side, side):
        return table
    if registers:
        arguments: dict[str, Any] = {"size": grid}
    else:
        arguments = {"scale_factor": ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)}
    patches = functional.interpolate(
        table[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2),
        mode="bicubic",
        antialias=registers,
        **arguments,
    )
    return torch.cat([table[:, :1], patches.permute(0, 2, 3, 1).view(1, -1, width)], dim=1)


@pytest.mark.parametrize("grid", [(2, 2), (3, 7), (6, 5), (1, 1), (1, 16), (2, 8), (9, 9)])
@pytest.mark.parametrize("kind", DINOV2_NAMES)
@torch.inference_mode()
def test_features_at_other_grids_follow_the_rule_of_the_hub(
    kind: str, grid: tuple[int, int], tmp_path: Path
) -> None:
    state = dinov2_state(kind)
    checkpoint = _read(kind, state, tmp_path / "hub.pth")
    pixels = network_input(14 * grid[0], 14 * grid[1])
    model = _timm(kind, state)
    patches = model.patch_embed(normalised(checkpoint, pixels)).flatten(1, 2)
    tokens = torch.cat([state["cls_token"].expand(2, -1, -1), patches], dim=1)
    tokens += hub_positions(state["pos_embed"], grid, registers=kind == "registers")
    if kind == "registers":
        registers = state["register_tokens"].expand(2, -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
    expected = without_registers(model.norm(model.blocks(tokens)), _registers(kind))
    assert difference(features(checkpoint, pixels), expected) <= TOLERANCE


def _prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def _chunked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two chunks of blocks; the number within a chunk stays that of the whole model."""
    return {
        re.sub(
            r"^blocks\.(\d+)\.",
            lambda match: f"blocks.{int(match[1]) // 2}.{match[1]}.",
            key,
        ): value
        for key, value in state.items()
    }


def _fsdp(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """FSDP wraps the model and each block."""
    return {
        "_fsdp_wrapped_module."
        + re.sub(r"^(blocks\.[\d.]*\d)\.", r"\1._fsdp_wrapped_module.", key): value
        for key, value in state.items()
    }


_HEADS = {"dino_head.mlp.0.weight": torch.ones(2, 2), "ibot_head.mlp.0.weight": torch.ones(2, 2)}
WRAPPED = {
    "teacher": lambda s, o: {"teacher": _prefixed(s, "backbone.") | _HEADS, "iteration": 7},
    "model": lambda s, o: {
        "model": _prefixed(s, "teacher.backbone.")
        | _prefixed(_HEADS, "teacher.")
        | _prefixed(o, "student.backbone.")
        | _prefixed(_HEADS, "student."),
        "optimizer": {"state": {0: torch.ones(1)}},
    },
    "chunked": lambda s, o: {"teacher": _prefixed(_chunked(s), "backbone.")},
    "fsdp": lambda s, o: {"teacher": _prefixed(_fsdp(s), "backbone.")},
    "fsdp and chunked": lambda s, o: {"teacher": _prefixed(_fsdp(_chunked(s)), "backbone.")},
    "data parallel": lambda s, o: {"teacher": _prefixed(s, "module.backbone.")},
    "data parallel bare": lambda s, o: _prefixed(s, "module."),
    "compiled": lambda s, o: _prefixed(s, "_orig_mod."),
    "bare in model": lambda s, o: {"model": s},
}


@pytest.mark.parametrize("kind", DINOV2_NAMES)
@pytest.mark.parametrize("wrapping", WRAPPED)
def test_a_training_file_gives_the_teacher(wrapping: str, kind: str, tmp_path: Path) -> None:
    state, student = dinov2_state(kind), dinov2_state(kind, seed=6)
    bare = _read(kind, state, tmp_path / "hub.pth").model.state_dict()
    wrapped = _read(kind, WRAPPED[wrapping](state, student), tmp_path / "run.pth")
    assert wrapped.format == "dinov2"
    assert all(torch.equal(value, bare[key]) for key, value in wrapped.model.state_dict().items())


@pytest.mark.parametrize("kind", DINOV2_NAMES)
def test_a_safetensors_file_is_read_like_a_torch_file(kind: str, tmp_path: Path) -> None:
    state = dinov2_state(kind)
    save_file(state, tmp_path / "hub.safetensors")
    other = _read(kind, state, tmp_path / "hub.pth")
    checkpoint = read_checkpoint(tmp_path / "hub.safetensors", architecture=DINOV2_NAMES[kind])
    pixels = network_input(28, 42)
    assert torch.equal(features(checkpoint, pixels), features(other, pixels))


@pytest.mark.parametrize("kind", ["plain", "registers"])
def test_the_architecture_follows_from_the_tensors(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dinov2.SIZES, WIDTH, "test")
    torch.save(dinov2_state(kind), tmp_path / "hub.pth")
    checkpoint = read_checkpoint(tmp_path / "hub.pth")
    assert checkpoint.architecture == DINOV2_NAMES[kind]
    offset = 0.1 if kind == "plain" else 0.0
    assert checkpoint.position == LearnedPosition(
        grid=(SIDE, SIDE), antialias=kind == "registers", offset=offset
    )
    assert (checkpoint.preprocessing.resize, checkpoint.preprocessing.size) == (
        (256, 256),
        (224, 224),
    )


def test_an_unknown_width_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(dinov2_state("plain"), tmp_path / "hub.pth")
    with pytest.raises(CheckpointError, match=r"32 wide with patch 14.*--arch"):
        read_checkpoint(tmp_path / "hub.pth")


@pytest.mark.parametrize("kind", ["plain", "registers"])
@torch.inference_mode()
def test_hugging_face_and_the_hub_agree_on_the_same_weights(kind: str, tmp_path: Path) -> None:
    state = dinov2_state(kind)
    size = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    stem = "Dinov2WithRegisters" if kind == "registers" else "Dinov2"
    config = getattr(transformers, f"{stem}Config")(**size, image_size=14 * SIDE, patch_size=14)
    model = getattr(transformers, f"{stem}Model")(config).eval()
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    save_file(_huggingface_names(state), folder / "model.safetensors")
    transformers.BitImageProcessor(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}
    ).save_pretrained(folder)
    theirs, own = read_checkpoint(folder), _read(kind, state, tmp_path / "hub.pth")
    pixels = network_input(14 * SIDE, 14 * SIDE)
    pixels[:, :3] = 128  # the processors' means differ
    own = Checkpoint(**{**vars(own), "preprocessing": theirs.preprocessing})
    assert difference(features(theirs, pixels), features(own, pixels)) <= TOLERANCE


def _huggingface_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key.replace("patch_embed.proj.", "embeddings.patch_embeddings.projection.")
        name = re.sub(r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1", name)
        name = name.replace("pos_embed", "embeddings.position_embeddings")
        name = re.sub(r"^norm\.", "layernorm.", name).replace("blocks.", "encoder.layer.")
        name = name.replace("attn.proj.", "attention.output.dense.")
        name = re.sub(r"ls(\d)\.gamma", r"layer_scale\1.lambda1", name)
        if ".attn.qkv." not in name:
            renamed[name] = value.clone()
            continue
        for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
            renamed[name.replace("attn.qkv", f"attention.attention.{part}")] = third.clone()
    return renamed


def test_a_training_run_keeps_the_codes_own_position_rule_also_with_registers(
    tmp_path: Path,
) -> None:
    state = dinov2_state("registers")
    torch.save(state, tmp_path / "hub.pth")
    wrapped = {"teacher": {f"backbone.{key}": value for key, value in state.items()}}
    torch.save(wrapped, tmp_path / "run.pth")
    name = DINOV2_NAMES["registers"]
    hub, run = (
        read_checkpoint(tmp_path / file, architecture=name).position
        for file in ("hub.pth", "run.pth")
    )
    assert isinstance(hub, LearnedPosition)
    assert isinstance(run, LearnedPosition)
    assert (hub.antialias, hub.offset) == (True, 0.0)
    assert (run.antialias, run.offset) == (False, 0.1)


def test_two_keys_that_become_one_are_refused(tmp_path: Path) -> None:
    state = {f"backbone.{key}": value for key, value in dinov2_state("plain").items()}
    state["backbone.module.norm.weight"] = state["backbone.norm.weight"] + 1
    torch.save({"teacher": state}, tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match=r"two tensors are called backbone\.norm\.weight"):
        read_checkpoint(tmp_path / "run.pth")
