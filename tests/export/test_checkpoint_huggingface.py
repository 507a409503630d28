from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
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
from PIL import Image

from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.random_weights import randomize
from clsspec_serve.errors import CheckpointError
from clsspec_serve.transform import transform

SIZE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
V2 = SIZE | {"image_size": 70, "patch_size": 14}
V3 = SIZE | {"intermediate_size": 88, "image_size": 80, "num_register_tokens": 4}
GATED = {"use_gated_mlp": True, "hidden_act": "silu"}
NO_BIAS = {"query_bias": False, "value_bias": False}


def _dinov2(**changes: Any) -> torch.nn.Module:
    return transformers.Dinov2Model(transformers.Dinov2Config(**(V2 | changes)))


def _registers(**changes: Any) -> torch.nn.Module:
    config = transformers.Dinov2WithRegistersConfig(**(V2 | changes))
    return transformers.Dinov2WithRegistersModel(config)


def _dinov3(**changes: Any) -> torch.nn.Module:
    return transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**(V3 | changes)))


MODELS = {
    "dinov2": (_dinov2, {}, 0),
    "dinov2 without qkv bias": (_dinov2, {"qkv_bias": False}, 0),
    "dinov2 swiglu": (_dinov2, {"use_swiglu_ffn": True}, 0),
    "dinov2 patch 16": (_dinov2, {"patch_size": 16, "image_size": 64}, 0),
    "dinov2 other mlp ratio": (_dinov2, {"mlp_ratio": 3}, 0),
    "dinov2 other eps": (_dinov2, {"layer_norm_eps": 1e-2}, 0),
    "registers": (_registers, {}, 4),
    "one register": (_registers, {"num_register_tokens": 1}, 1),
    "registers swiglu": (_registers, {"use_swiglu_ffn": True}, 4),
    "dinov3": (_dinov3, {}, 4),
    "dinov3 gated": (_dinov3, GATED, 4),
    "dinov3 without qkv bias": (_dinov3, NO_BIAS, 4),
    "dinov3 with key bias": (_dinov3, {"key_bias": True}, 4),
    "dinov3 gated without qkv bias": (_dinov3, GATED | NO_BIAS, 4),
    "dinov3 other theta": (_dinov3, {"rope_theta": 33.0}, 4),
}


def _processor(family: str) -> Any:
    if "dinov3" in family:
        return transformers.DINOv3ViTImageProcessor(size={"height": 96, "width": 96})
    return transformers.BitImageProcessor(
        size={"shortest_edge": 80},
        crop_size={"height": 70, "width": 70},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
    )


def _save(model: torch.nn.Module, family: str, folder: Path, **kwargs: Any) -> Path:
    randomize(model, seed=3)
    model.eval().save_pretrained(folder, **kwargs)
    _processor(family).save_pretrained(folder)
    return folder


def _edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text())
    for key, value in changes.items():
        content.pop(key) if value is None else content.update({key: value})
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("grid", [(5, 5), (3, 3), (8, 9), (2, 7)])
@pytest.mark.parametrize("family", MODELS)
@torch.inference_mode()
def test_features_equal_those_of_transformers(
    family: str, grid: tuple[int, int], tmp_path: Path
) -> None:
    build, changes, registers = MODELS[family]
    model = build(**changes)
    checkpoint = read_checkpoint(_save(model, family, tmp_path))
    patch = checkpoint.model.patch_embed.patch_size[0]
    pixels = network_input(grid[0] * patch, grid[1] * patch)
    expected = model(normalised(checkpoint, pixels)).last_hidden_state
    found = features(checkpoint, pixels)
    assert difference(found, without_registers(expected, registers)) <= TOLERANCE


@torch.inference_mode()
def test_a_classifier_gives_the_features_of_its_backbone(tmp_path: Path) -> None:
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**V2, num_labels=5))
    checkpoint = read_checkpoint(_save(model, "dinov2", tmp_path))
    pixels = network_input(70, 42)
    expected = model.dinov2(normalised(checkpoint, pixels)).last_hidden_state
    assert difference(features(checkpoint, pixels), expected) <= TOLERANCE


def test_sharded_weights_are_read_like_one_file(tmp_path: Path) -> None:
    whole = _save(_dinov2(), "dinov2", tmp_path / "whole")
    shards = _save(_dinov2(), "dinov2", tmp_path / "shards", max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    one, other = (read_checkpoint(folder).model.state_dict() for folder in (whole, shards))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    folder = _save(_dinov2(), "dinov2", tmp_path, max_shard_size="20KB")
    shard = min(folder.glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        read_checkpoint(folder)


@pytest.mark.parametrize("shape", [(120, 97), (60, 60), (75, 200), (200, 75)])
def test_crops_are_placed_as_the_processor_of_dinov2_places_them(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    folder = _save(_dinov2(), "dinov2", tmp_path)
    checkpoint = read_checkpoint(folder)
    rows, columns = np.indices(shape)
    ramps = (
        4 * (axis - side // 2) + 128 for axis, side in zip((rows, columns), shape, strict=True)
    )
    down, right = (np.clip(ramp, 0, 255) for ramp in ramps)
    picture = np.stack([down, right, down // 2 + right // 2], axis=-1).astype(np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    expected = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    pixels, _ = transform(picture, checkpoint.preprocessing, 14)
    found = normalised(checkpoint, pixels[None])
    # torchvision's and Pillow's resampling round differently; a shift by a pixel is 3 steps.
    assert float((found - expected).abs().max()) <= 2.01 / 255 / 0.2


def test_a_fixed_size_processor_becomes_a_squash(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(_save(_dinov3(), "dinov3", tmp_path))
    assert checkpoint.preprocessing.policy == "squash"
    assert checkpoint.preprocessing.size == (96, 96)
    assert checkpoint.preprocessing.resize is None
    assert checkpoint.preprocessing.interpolation == "bilinear"
    assert checkpoint.preprocessing.mean == (0.485, 0.456, 0.406)


def test_a_folder_without_a_preprocessor_is_refused(tmp_path: Path) -> None:
    folder = _save(_dinov2(), "dinov2", tmp_path)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is missing"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 7}, "resample 7"),
        ({"resample": None}, "resample None"),
        ({"do_resize": False}, "does not resize"),
        ({"do_normalize": False}, "does not resize or normalise"),
        ({"do_center_crop": False}, "without a centre crop"),
        ({"size": None}, "size"),
        ({"size": 224}, "size"),
        ({"size": {"longest_edge": 3}}, "height"),
        ({"crop_size": {"width": 3}}, "height"),
        ({"image_mean": [0.5]}, "mean"),
        ({"image_std": "none"}, "std"),
        ({"image_std": [0.0, 0.5, 0.5]}, "std"),
        ({"image_mean": None}, "mean"),
        ({"do_rescale": False}, "accepted is 1/255"),
        ({"rescale_factor": 1 / 127.5}, "accepted is 1/255"),
        ({"rescale_factor": "1/255"}, "accepted is 1/255"),
        ({"resample": [3]}, "resample"),
    ],
)
def test_a_preprocessor_that_cannot_be_followed_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = _save(_dinov2(), "dinov2", tmp_path)
    _edit(folder / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("dinov2", {"model_type": "vit"}, "'vit' model; accepted are dinov2"),
        ("dinov2", {"model_type": None}, "None"),
        ("dinov2", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("dinov3", {"hidden_act": "gelu_new"}, "hidden_act 'gelu_new'"),
        ("dinov3 gated", {"hidden_act": "gelu"}, "hidden_act 'gelu'; accepted is 'silu'"),
        ("dinov2", {"hidden_size": None}, "no 'hidden_size'"),
        ("dinov2", {"layer_norm_eps": None}, "no 'layer_norm_eps'"),
        ("registers", {"num_register_tokens": None}, "no 'num_register_tokens'"),
        ("dinov3", {"rope_theta": None}, "no 'rope_theta'"),
        ("dinov2", {"patch_size": [14, 16]}, r"patch_size \[14, 16\] is not square"),
        ("dinov2", {"image_size": 84}, "pos_embed has shape"),
        ("dinov2", {"mlp_ratio": "wide"}, "does not fit"),
        ("dinov2", {"num_hidden_layers": 2}, "unexpected"),
        ("dinov2", {"num_hidden_layers": 4}, "missing"),
        ("dinov3", {"query_bias": False, "value_bias": False}, r"unexpected.*q_proj\.bias"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    build, own, _ = MODELS[family]
    folder = _save(build(**own), family, tmp_path)
    _edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(folder)
