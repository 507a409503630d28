from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from export_checkpoints import DEIT3_NAME, DINOV2_NAMES, DINOV3_NAMES
from export_helpers import (
    TINY,
    TOLERANCE,
    WIDTH,
    difference,
    features,
    network_input,
    normalised,
    without_registers,
)
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from timm.models import register_model
from torch import nn

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.checkpoints.timm_files import timm_position
from clsspec_export.random_weights import randomize
from clsspec_serve.errors import CheckpointError, UsageError
from clsspec_serve.manifest import LearnedPosition


@register_model
def eva_test_patch14_224(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Average-pooled: its last norm comes after the pooling."""
    arguments = TINY | {"img_size": 56} | kwargs
    return timm.create_model("eva_giant_patch14_224", pretrained=pretrained, **arguments)


__all__ = ["eva_test_patch14_224"]

NAMES = [*DINOV2_NAMES.values(), *DINOV3_NAMES.values(), DEIT3_NAME, "eva_test_patch14_224"]


def _model(name: str, **arguments: Any) -> nn.Module:
    model = timm.create_model(name, **arguments).eval()
    randomize(model, seed=7)
    return model


def _file(model: nn.Module, folder: Path, suffix: str = ".pth") -> Path:
    path = folder / f"timm{suffix}"
    if suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


def _expected(model: nn.Module, checkpoint: Checkpoint, pixels: Any) -> torch.Tensor:
    tokens = model.forward_features(normalised(checkpoint, pixels))
    return without_registers(tokens, model.num_prefix_tokens - 1)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("grid", [None, (2, 2), (3, 6), (9, 5), (1, 3)])
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_features_equal_those_of_timm(
    name: str, grid: tuple[int, int] | None, suffix: str, tmp_path: Path
) -> None:
    model = _model(name, dynamic_img_size=True)
    checkpoint = read_checkpoint(_file(model, tmp_path, suffix), architecture=name)
    patch = model.patch_embed.patch_size[0]
    rows, columns = grid or (4, 4)
    pixels = network_input(rows * patch, columns * patch)
    expected = _expected(model, checkpoint, pixels)
    assert difference(features(checkpoint, pixels), expected) <= TOLERANCE
    assert checkpoint.format == "timm"


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_file_with_a_classifier_gives_the_same_features(name: str, tmp_path: Path) -> None:
    model = _model(name, num_classes=7, dynamic_img_size=True)
    checkpoint = read_checkpoint(_file(model, tmp_path), architecture=name)
    pixels = network_input(112, 112)
    expected = _expected(model, checkpoint, pixels)
    assert difference(features(checkpoint, pixels), expected) <= TOLERANCE


def test_a_folder_of_timm_names_its_architecture(tmp_path: Path) -> None:
    name = DINOV2_NAMES["registers"]
    model = _model(name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": name, "num_classes": 0, "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.architecture == name
    assert torch.equal(checkpoint.table.flatten(0, 1), model.pos_embed[0])


def test_the_size_of_the_positions_decides_the_native_grid(tmp_path: Path) -> None:
    name = DINOV2_NAMES["plain"]
    checkpoint = read_checkpoint(_file(_model(name, img_size=84), tmp_path), architecture=name)
    assert checkpoint.position == LearnedPosition(grid=(6, 6), antialias=True)


def test_positions_that_are_no_square_are_refused(tmp_path: Path) -> None:
    name = DINOV2_NAMES["plain"]
    path = _file(_model(name, img_size=(84, 56)), tmp_path)
    with pytest.raises(CheckpointError, match="24 patch positions, which is not a square"):
        read_checkpoint(path, architecture=name)


def test_learned_positions_for_a_rotary_model_are_refused(tmp_path: Path) -> None:
    path = _file(_model(DINOV2_NAMES["plain"]), tmp_path)
    with pytest.raises(CheckpointError, match=r"has a pos_embed; .* has none"):
        read_checkpoint(path, architecture=DINOV3_NAMES[False])


@pytest.mark.parametrize("name", ["vit_that_is_not", "resnet18", "swin_tiny_patch4_window7_224"])
def test_an_architecture_that_is_no_vit_is_refused(name: str, tmp_path: Path) -> None:
    path = _file(_model(DINOV3_NAMES[False]), tmp_path)
    with pytest.raises(UsageError, match=name):
        read_checkpoint(path, architecture=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rot_pos_emb": False, "use_abs_pos_emb": False},
        {"use_abs_pos_emb": True},
        {"rope_type": "cat"},
        {"rope_rotate_half": False},
    ],
)
def test_other_position_embeddings_than_the_known_are_refused(
    changes: dict[str, Any],
) -> None:
    model = timm.create_model(DINOV3_NAMES[False], **changes)
    with pytest.raises(CheckpointError, match=r"position|rotary"):
        timm_position(model)


@pytest.mark.parametrize("name", [DEIT3_NAME, *DINOV3_NAMES.values(), DINOV2_NAMES["plain"]])
def test_the_preprocessing_is_that_of_timm_s_transform(name: str, tmp_path: Path) -> None:
    model = _model(name)
    preprocessing = read_checkpoint(_file(model, tmp_path), architecture=name).preprocessing
    config = resolve_model_data_config(model)
    if model.pos_embed is not None:  # the size for which the model was built
        config["input_size"] = (3, *model.patch_embed.img_size)
    steps = create_transform(**config, is_training=False).transforms
    assert preprocessing.size == config["input_size"][1:]
    assert preprocessing.mean == config["mean"]
    assert preprocessing.std == config["std"]
    assert preprocessing.interpolation == steps[0].interpolation.value
    size = steps[0].size
    resize = preprocessing.resize or preprocessing.size
    assert resize == (tuple(size) if isinstance(size, list | tuple) else (size, size))
    assert model.embed_dim == WIDTH


@torch.inference_mode()
def test_of_a_training_file_the_averaged_weights_are_taken_as_timm_takes_them(
    tmp_path: Path,
) -> None:
    name = DINOV2_NAMES["plain"]
    raw, averaged = _model(name), _model(name)
    randomize(averaged, 77)
    content = {"state_dict": raw.state_dict(), "state_dict_ema": averaged.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "run.pth")
    found = read_checkpoint(tmp_path / "run.pth", architecture=name).model.state_dict()
    torch.testing.assert_close(found["norm.weight"], averaged.state_dict()["norm.weight"])
    del content["state_dict_ema"]
    torch.save(content, tmp_path / "run.pth")
    found = read_checkpoint(tmp_path / "run.pth", architecture=name).model.state_dict()
    torch.testing.assert_close(found["norm.weight"], raw.state_dict()["norm.weight"])
