from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from export_checkpoints import DEIT3_NAME, deit3_state
from export_helpers import TOLERANCE, WIDTH, difference, features, network_input, normalised
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor
from torch.nn import functional

from clsspec_export.checkpoints import deit3
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_serve.errors import CheckpointError
from clsspec_serve.manifest import LearnedPosition

GRID = (4, 4)


@pytest.fixture(autouse=True)
def _tiny_width_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(deit3._SIZES, WIDTH, "test")


def _read(content: object, folder: Path) -> Checkpoint:
    torch.save(content, folder / "deit3.pth")
    return read_checkpoint(folder / "deit3.pth")


def _timm(state: dict[str, Tensor]) -> torch.nn.Module:
    model = timm.create_model(DEIT3_NAME, dynamic_img_size=True).eval()
    named = {key: value for key, value in state.items() if not key.startswith("head")}
    model.load_state_dict(checkpoint_filter_fn(named, model, adapt_layer_scale=True), strict=True)
    return model


@torch.inference_mode()
def test_features_equal_those_of_timm_at_the_native_grid(tmp_path: Path) -> None:
    state = deit3_state()
    checkpoint = _read({"model": state}, tmp_path)
    pixels = network_input(64, 64)
    expected = _timm(state).forward_features(normalised(checkpoint, pixels))
    assert difference(features(checkpoint, pixels), expected) <= TOLERANCE


@pytest.mark.parametrize("grid", [(2, 2), (3, 7), (6, 1), (2, 8)])
@torch.inference_mode()
def test_positions_are_resized_without_antialiasing(grid: tuple[int, int], tmp_path: Path) -> None:
    state = deit3_state()
    checkpoint = _read({"model": state}, tmp_path)
    pixels = network_input(16 * grid[0], 16 * grid[1])
    model = _timm(state)
    table = state["pos_embed"].reshape(1, *GRID, WIDTH).permute(0, 3, 1, 2)
    resized = functional.interpolate(table, size=grid, mode="bicubic").flatten(2).mT
    patches = model.patch_embed(normalised(checkpoint, pixels)).flatten(1, 2) + resized
    tokens = torch.cat([state["cls_token"].expand(2, -1, -1), patches], dim=1)
    expected = model.norm(model.blocks(tokens))
    assert difference(features(checkpoint, pixels), expected) <= TOLERANCE


def test_the_file_is_read_with_and_without_its_wrapper(tmp_path: Path) -> None:
    state = deit3_state()
    wrapped, bare = _read({"model": state, "epoch": 1}, tmp_path), _read(state, tmp_path)
    pixels = network_input(32, 64)
    assert torch.equal(features(wrapped, pixels), features(bare, pixels))
    assert wrapped.format == "deit3"


def test_a_file_of_a_higher_resolution_keeps_its_grid(tmp_path: Path) -> None:
    state = deit3_state() | {"pos_embed": torch.randn(1, 36, WIDTH)}
    checkpoint = _read({"model": state}, tmp_path)
    assert checkpoint.position == LearnedPosition(grid=(6, 6), antialias=False)
    assert checkpoint.preprocessing.size == (96, 96)
    assert torch.equal(checkpoint.table.flatten(0, 1), state["pos_embed"][0])


def test_cls_has_no_position(tmp_path: Path) -> None:
    checkpoint = _read(deit3_state(), tmp_path)
    assert checkpoint.model.no_embed_class
    assert checkpoint.table.shape == (*GRID, WIDTH)


def test_a_width_of_no_deit3_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(deit3._SIZES, WIDTH)
    with pytest.raises(CheckpointError, match="32 wide; DeiT-III's are 384, 768"):
        _read(deit3_state(), tmp_path)
