from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from export_checkpoints import DEIT3_NAME, DINOV2_NAMES, DINOV3_NAMES
from export_helpers import DEPTH, WIDTH, features, network_input
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from clsspec_export.checkpoints.native import save_native
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.checkpoints.source import load_checkpoint
from clsspec_export.random_weights import randomize
from clsspec_export.specialize import ViT, paper_specialization, specialize
from clsspec_serve.errors import CheckpointError, UsageError
from clsspec_serve.manifest import LearnedPosition, Preprocessing, RotaryPosition, Specialization

SPLITS = {
    "paper": paper_specialization(DEPTH),
    "registers with patches": Specialization(qkv_blocks=2, registers_with="patch"),
    "norms only": Specialization(final_norm=False, layer_scale=False),
    "all qkv": Specialization(norms=False, qkv_blocks=DEPTH),
}
NAMES = [*DINOV2_NAMES.values(), *DINOV3_NAMES.values(), DEIT3_NAME]
OWN = Preprocessing(
    size=(70, 42), policy="fit", interpolation="lanczos", mean=(0.1, 0.2, 0.3), std=(1, 2, 3)
)


def _trained(name: str, split: Specialization, bias: bool = True, **arguments: Any) -> ViT:
    model = timm.create_model(name, **arguments).eval()
    specialize(model, split, attention_bias=bias)
    randomize(model, seed=2)
    return model


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_comes_back_bit_for_bit(
    name: str, split: str, bias: bool, tmp_path: Path
) -> None:
    model = _trained(name, SPLITS[split], bias)
    save_native(model, tmp_path / "a.safetensors", architecture=name, preprocessing=OWN)
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    expected, found = model.state_dict(), checkpoint.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert checkpoint.model.specialization == SPLITS[split]
    assert checkpoint.preprocessing == OWN
    assert checkpoint.format == "clsspec"
    assert checkpoint.architecture == name


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_its_features_are_those_of_the_trained_model(name: str, tmp_path: Path) -> None:
    model = _trained(name, SPLITS["registers with patches"])
    save_native(model, tmp_path / "a.safetensors", architecture=name, preprocessing=OWN)
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    size = model.patch_embed.img_size
    pixels = network_input(*size)
    tokens = torch.from_numpy(pixels[:, :3]).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OWN.mean, OWN.std))
    expected = model.forward_features((tokens - mean) / std)
    registers = model.num_prefix_tokens - 1
    found = features(checkpoint, pixels)
    assert torch.allclose(found[:, 0], expected[:, 0], atol=1e-5)
    assert torch.allclose(found[:, 1:], expected[:, 1 + registers :], atol=1e-5)


def test_arguments_and_positions_are_kept(tmp_path: Path) -> None:
    name, arguments = DINOV2_NAMES["plain"], {"img_size": 42, "depth": 2, "mlp_ratio": 3.0}
    model = _trained(name, paper_specialization(2), **arguments)
    save_native(model, tmp_path / "a.safetensors", architecture=name, arguments=arguments)
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert checkpoint.position == LearnedPosition(grid=(3, 3), antialias=True)
    assert torch.equal(checkpoint.table.flatten(0, 1), model.pos_embed[0, 1:])
    assert len(checkpoint.model.blocks) == 2


@pytest.mark.parametrize("arguments", [{}, {"num_classes": 7}])
def test_a_classifier_is_left_out(arguments: dict[str, Any], tmp_path: Path) -> None:
    model = _trained(DEIT3_NAME, SPLITS["paper"], **({"num_classes": 7} | arguments))
    assert "head.weight" in model.state_dict()
    file = tmp_path / "a.safetensors"
    save_native(model, file, architecture=DEIT3_NAME, arguments=arguments)
    found = read_checkpoint(file).model.state_dict()
    assert found.keys() == model.state_dict().keys() - {"head.weight", "head.bias"}


def test_rotary_periods_that_were_changed_are_kept(tmp_path: Path) -> None:
    name = DINOV3_NAMES[False]
    model = _trained(name, SPLITS["paper"])
    model.rope.periods.mul_(1.5)
    save_native(model, tmp_path / "a.safetensors", architecture=name)
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(checkpoint.table, model.rope.periods)
    assert checkpoint.position == RotaryPosition(head_dim=16)


def test_a_description_and_a_licence_are_kept(tmp_path: Path) -> None:
    model, file = _trained(NAMES[0], SPLITS["paper"]), tmp_path / "a.safetensors"
    save_native(model, file, architecture=NAMES[0], description="trained on 7 rooms", licence="MIT")
    assert read_checkpoint(file).description == "trained on 7 rooms"
    assert load_checkpoint(str(file))[1].licence == "MIT"
    save_native(model, file, architecture=NAMES[0])
    assert read_checkpoint(file).description is None


@pytest.mark.parametrize("description", ["two\nlines", ""])
def test_a_description_that_is_no_line_is_refused(description: str, tmp_path: Path) -> None:
    model, file = _trained(NAMES[0], SPLITS["paper"]), tmp_path / "a.safetensors"
    with pytest.raises(UsageError, match=r"a\.safetensors, description: String should ") as caught:
        save_native(model, file, architecture=NAMES[0], description=description)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_model_that_is_not_specialized_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not specialized"):
        save_native(timm.create_model(NAMES[0]), tmp_path / "a.safetensors", architecture=NAMES[0])
    assert not any(tmp_path.iterdir())


def _saved(folder: Path, name: str = NAMES[0]) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    file = folder / "a.safetensors"
    save_native(_trained(name, SPLITS["paper"]), file, architecture=name)
    with safe_open(file, framework="pt") as opened:
        config = json.loads(opened.metadata()["clsspec"])
    return file, load_file(file), config


def _write(file: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    save_file(state, file, metadata={"clsspec": json.dumps(config)})


CLS, PATCH = "blocks.0.attn.qkv.cls", "blocks.0.attn.qkv.patch"


@pytest.mark.parametrize("own_bias", [False, True])
def test_a_low_rank_cls_matrix_is_merged(own_bias: bool, tmp_path: Path) -> None:
    file, state, config = _saved(tmp_path)
    a, b = torch.randn(2, WIDTH), torch.randn(3 * WIDTH, 2)
    del state[f"{CLS}.weight"]
    bias = state[f"{CLS}.bias"] if own_bias else state[f"{PATCH}.bias"]
    if not own_bias:
        del state[f"{CLS}.bias"]
    _write(file, state | {f"{CLS}.A": a, f"{CLS}.B": b}, config)
    layer = read_checkpoint(file).model.blocks[0].attn.qkv
    for row in (0, 40, 95):
        expected = state[f"{PATCH}.weight"][row] + b[row, 0] * a[0] + b[row, 1] * a[1]
        assert torch.allclose(layer.cls.weight[row], expected, atol=1e-6)
    assert torch.equal(layer.cls.bias, bias)
    assert torch.equal(layer.patch.weight, state[f"{PATCH}.weight"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"A": (2, WIDTH)}, r"lacks .*cls\.B"),
        ({"B": (96, 2)}, r"lacks .*cls\.A"),
        ({"A": (2, WIDTH), "B": (96, 3)}, r"B \(96, 3\) times .*A \(2, 32\)"),
        ({"A": (2, 31), "B": (96, 2)}, "does not have the shape"),
        ({"A": (2, WIDTH), "B": (95, 2)}, "does not have the shape"),
        ({"A": (WIDTH,), "B": (96, 1)}, "does not have the shape"),
        ({"A": (1, WIDTH), "B": (96,)}, "does not have the shape"),
        ({"A": (2, WIDTH), "B": (96, 2), "weight": (96, WIDTH)}, r"cls\.weight"),
    ],
)
def test_a_low_rank_matrix_that_does_not_fit_is_refused(
    changes: dict[str, tuple[int, ...]], message: str, tmp_path: Path
) -> None:
    file, state, config = _saved(tmp_path)
    del state[f"{CLS}.weight"]
    _write(file, state | {f"{CLS}.{key}": torch.ones(s) for key, s in changes.items()}, config)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_that_is_not"}, "not an architecture"),
        ({"architecture": 3}, "architecture"),
        ({"arguments": {"depht": 3}}, "depht"),
        ({"arguments": {"pretrained": True}}, "pretrained"),
        ({"arguments": {"checkpoint_path": "/x"}}, "checkpoint_path"),
        ({"arguments": {"pretrained_cfg_overlay": {"file": "/x"}}}, "pretrained_cfg_overlay"),
        ({"surplus": 1}, "surplus"),
        ({"specialization": {"qkv_blocks": 99}}, "qkv_blocks is 99"),
        ({"specialization": None}, r"missing .*; unexpected"),
        ({"attention_bias": False}, r"unexpected .*attn\.bias\.k"),
        ({"position": {"kind": "rotary", "head_dim": 16}}, "position"),
        ({"position": {"kind": "learned", "grid": [3, 3], "antialias": True}}, "position"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file, state, config = _saved(tmp_path)
    _write(file, state, config | changes)
    with pytest.raises((CheckpointError, UsageError), match=message) as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("periods", [torch.ones(3), torch.zeros(4), torch.full((4,), torch.nan)])
def test_periods_that_cannot_be_used_are_refused(periods: Tensor, tmp_path: Path) -> None:
    file, state, config = _saved(tmp_path, DINOV3_NAMES[False])
    _write(file, state | {"rope.periods": periods}, config)
    with pytest.raises(CheckpointError, match="rotary periods"):
        read_checkpoint(file)


def test_a_model_built_for_another_size_is_served_at_that_size(tmp_path: Path) -> None:
    name = DINOV2_NAMES["plain"]
    model = timm.create_model(name, img_size=42)
    specialize(model, paper_specialization(DEPTH))
    save_native(model, tmp_path / "m.safetensors", architecture=name, arguments={"img_size": 42})
    checkpoint = read_checkpoint(tmp_path / "m.safetensors")
    assert checkpoint.position == LearnedPosition(grid=(3, 3), antialias=True)
    assert checkpoint.preprocessing.size == (42, 42)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    name = DINOV2_NAMES["plain"]
    model = specialize(timm.create_model(name), paper_specialization(DEPTH))
    path = tmp_path / "m.safetensors"
    save_native(model, path, architecture=name)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    state["blocks.0.mlp.fc1.weight"] = state["blocks.0.mlp.fc1.weight"].to(torch.int8)
    save_file(state, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"integer weights in blocks\.0\.mlp\.fc1\.weight"):
        read_checkpoint(path)
