from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import transformers
from export_checkpoints import (
    DEIT3_NAME,
    DINOV2_NAMES,
    DINOV3_NAMES,
    deit3_state,
    dinov2_state,
    dinov3_state,
    timm_state,
)
from export_helpers import DEPTH, HEADS, WIDTH
from long_cases import mostly_long
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from clsspec_export.checkpoints import deit3, dinov3
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.native import save_native
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.random_weights import randomize
from clsspec_export.specialize import paper_specialization, specialize
from clsspec_serve.errors import CheckpointError

State = dict[str, Tensor]
Reader = Callable[[State], Checkpoint]

IGNORED = re.compile(
    r".*mask_token|head\..*|classifier\..*|local_cls_norm\..*|.*bias_mask|.*_head\..*|rope\.periods"
)
"""What has no part in the features, or may be absent."""


def _torch(state: State, folder: Path, architecture: str | None = None) -> tuple[State, Reader]:
    def read(changed: State) -> Checkpoint:
        torch.save(changed, folder / "file.pth")
        return read_checkpoint(folder / "file.pth", architecture=architecture)

    return state, read


def _huggingface(folder: Path, name: str, config: str, **changes: object) -> tuple[State, Reader]:
    size = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
    model = getattr(transformers, name)(getattr(transformers, config)(**size, **changes))
    randomize(model)
    model.save_pretrained(folder)
    transformers.BitImageProcessor(
        size={"height": 56, "width": 56}, do_center_crop=False
    ).save_pretrained(folder)

    def read(changed: State) -> Checkpoint:
        save_file(changed, folder / "model.safetensors")
        return read_checkpoint(folder)

    return load_file(folder / "model.safetensors"), read


def _native(folder: Path, name: str) -> tuple[State, Reader]:
    model = timm.create_model(name)
    specialize(model, paper_specialization(DEPTH), attention_bias=True)
    randomize(model)
    file = folder / "native.safetensors"
    save_native(model, file, architecture=name)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()

    def read(changed: State) -> Checkpoint:
        save_file(changed, file, metadata=metadata)
        return read_checkpoint(file)

    return load_file(file), read


def _rules(folder: Path) -> tuple[State, Reader]:
    state = {f"x.{key}": value for key, value in timm_state(DINOV2_NAMES["plain"]).items()}
    rules = folder / "rules.toml"
    rules.write_text(
        f"architecture = \"{DINOV2_NAMES['plain']}\"\n[[rule]]\nmatch = 'x\\.(.*)'\nname = '\\1'\n"
    )

    def read(changed: State) -> Checkpoint:
        torch.save(changed, folder / "file.pth")
        return read_checkpoint(folder / "file.pth", rules=rules)

    return state, read


V2 = {"image_size": 56, "patch_size": 14}
V3 = {"image_size": 64, "intermediate_size": 88, "num_register_tokens": 4}
FORMATS: dict[str, Callable[[Path], tuple[State, Reader]]] = {
    **{
        f"dinov2 {kind}": lambda folder, kind=kind: _torch(
            dinov2_state(kind), folder, DINOV2_NAMES[kind]
        )
        for kind in DINOV2_NAMES
    },
    "dinov3": lambda folder: _torch(dinov3_state(), folder),
    "dinov3 untied": lambda folder: _torch(dinov3_state(untied=True), folder),
    "dinov3 gated": lambda folder: _torch(dinov3_state(gated=True), folder),
    "deit3": lambda folder: _torch(deit3_state(), folder),
    "timm": lambda folder: _torch(timm_state(DEIT3_NAME), folder, DEIT3_NAME),
    "timm eva": lambda folder: _torch(timm_state(DINOV3_NAMES[True]), folder, DINOV3_NAMES[True]),
    "huggingface dinov2": lambda folder: _huggingface(folder, "Dinov2Model", "Dinov2Config", **V2),
    "huggingface registers": lambda folder: _huggingface(
        folder, "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **V2
    ),
    "huggingface dinov3": lambda folder: _huggingface(
        folder, "DINOv3ViTModel", "DINOv3ViTConfig", **V3
    ),
    "native": lambda folder: _native(folder, DINOV2_NAMES["registers"]),
    "native eva": lambda folder: _native(folder, DINOV3_NAMES[False]),
    "rules": _rules,
}


@pytest.fixture(params=FORMATS)
def source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[State, Reader]:
    """A state dict that is read without complaint, and how it is read."""
    monkeypatch.setitem(deit3._SIZES, WIDTH, "test")
    for gated, name in DINOV3_NAMES.items():
        monkeypatch.setitem(dinov3.NAMES, (WIDTH, DEPTH, gated), name)
    state, read = FORMATS[request.param](tmp_path)
    read(state)
    return state, read


def _needed(state: State) -> list[str]:
    """Every key outside the later blocks, which are like the first."""
    later = re.compile(r".*(blocks|layer)\.[1-9].*")
    return [key for key in state if not IGNORED.fullmatch(key) and not later.fullmatch(key)]


def test_a_dropped_tensor_is_an_error(source: tuple[State, Reader]) -> None:
    state, read = source
    for key in _needed(state):
        with pytest.raises(CheckpointError) as caught:
            read({name: value for name, value in state.items() if name != key})
        assert "missing" in str(caught.value) or "no known format" in str(caught.value), key


def test_an_added_tensor_is_an_error_that_names_it(source: tuple[State, Reader]) -> None:
    state, read = source
    for added in ("surplus.weight", "blocks.0.surplus.weight", "layer.0.surplus.weight"):
        name = f"x.{added}" if "x.cls_token" in state else added
        with pytest.raises(CheckpointError, match=rf"unexpected 1: .*{added}"):
            read(state | {name: torch.ones(3)})


def _grown(value: Tensor, axis: int) -> Tensor:
    return torch.cat([value, value.narrow(axis, 0, 1)], dim=axis)


@pytest.mark.parametrize("axis", mostly_long([0, -1, None], [0]))
def test_another_shape_is_an_error(source: tuple[State, Reader], axis: int | None) -> None:
    state, read = source
    for key in _needed(state):
        value = state[key]
        changed = value.flatten()[:-1] if axis is None else _grown(value, axis)
        with pytest.raises(CheckpointError) as caught:
            read(state | {key: changed.contiguous()})
        assert "\n" not in str(caught.value), key


def test_nan_and_infinity_are_errors(source: tuple[State, Reader]) -> None:
    state, read = source
    for bad in (float("nan"), float("inf")):
        for key in _needed(state)[::5]:
            value = state[key].clone()
            value.view(-1)[0] = bad
            with pytest.raises(CheckpointError, match="NaN or infinite"):
                read(state | {key: value})
