"""The runtime's position maps in NumPy against the PyTorch code of the sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from export_helpers import TOLERANCE, difference
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.pos_embed_sincos import RotaryEmbeddingDinoV3
from torch import Tensor
from torch.nn import functional
from transformers.models.dinov3_vit.modeling_dinov3_vit import DINOv3ViTRopePositionEmbedding

from clsspec_serve.manifest import LearnedPosition, RotaryPosition
from clsspec_serve.position import position_map

WIDTH = 8
RULES = {
    "by size": (False, 0.0),
    "by size, antialiased": (True, 0.0),
    "by factor, 0.1 more": (False, 0.1),
}
GRIDS = [(1, 1), (1, 2), (2, 1), (1, 9), (3, 3), (4, 7), (7, 4), (5, 5), (8, 8), (16, 3), (37, 41)]
NATIVE = [(1, 1), (4, 4), (5, 5), (7, 4), (16, 16)]


def _table(grid: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(*grid, WIDTH, generator=torch.Generator().manual_seed(seed))


def _torch(table: Tensor, grid: tuple[int, int], antialias: bool, offset: float) -> Tensor:
    # With one output column PyTorch 2.15 resizes the wrong axis when it antialiases on the CPU;
    # transposed it does not.
    if antialias and grid[1] == 1:
        turned = _torch(table.transpose(0, 1), (1, grid[0]), True, offset) if grid[0] > 1 else None
        if turned is not None:
            return turned.transpose(0, 1)
    image = table.permute(2, 0, 1)[None].contiguous()
    if offset:
        native = table.shape[:2]
        factor = tuple((n + offset) / n0 for n, n0 in zip(grid, native, strict=True))
        resized = functional.interpolate(
            image, scale_factor=factor, mode="bicubic", antialias=antialias
        )
    else:
        resized = functional.interpolate(image, size=grid, mode="bicubic", antialias=antialias)
    return resized[0].permute(1, 2, 0)


def _ours(table: Tensor, grid: tuple[int, int], antialias: bool, offset: float) -> Tensor:
    position = LearnedPosition(grid=tuple(table.shape[:2]), antialias=antialias, offset=offset)
    return torch.from_numpy(position_map(position, table.numpy(), grid))


@pytest.mark.parametrize("native", NATIVE)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("rule", RULES)
def test_a_learned_map_is_resized_as_torch_resizes_it(
    rule: str, grid: tuple[int, int], native: tuple[int, int]
) -> None:
    table = _table(native)
    found = _ours(table, grid, *RULES[rule])
    expected = table if grid == native else _torch(table, grid, *RULES[rule])
    assert found.dtype == torch.float32
    assert difference(found, expected) <= TOLERANCE


_SIDES = st.tuples(st.integers(1, 24), st.integers(1, 24))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(native=_SIDES, grid=_SIDES, rule=st.sampled_from(sorted(RULES)), seed=st.integers(0, 99))
def test_any_grid_is_resized_as_torch_resizes_it(
    native: tuple[int, int], grid: tuple[int, int], rule: str, seed: int
) -> None:
    table = _table(native, seed)
    expected = table if grid == native else _torch(table, grid, *RULES[rule])
    assert difference(_ours(table, grid, *RULES[rule]), expected) <= TOLERANCE


@pytest.mark.parametrize("rule", RULES)
def test_at_the_native_grid_the_map_is_the_table_itself(rule: str) -> None:
    table = _table((6, 4))
    assert torch.equal(_ours(table, (6, 4), *RULES[rule]), table)


@pytest.mark.parametrize("grid", [(3, 3), (9, 9)])
@pytest.mark.parametrize("one", RULES)
@pytest.mark.parametrize("other", RULES)
def test_the_rules_differ_visibly(one: str, other: str, grid: tuple[int, int]) -> None:
    table = _table((7, 7))
    apart = difference(_ours(table, grid, *RULES[one]), _ours(table, grid, *RULES[other]))
    assert (apart > 100 * TOLERANCE) == (one != other)


@pytest.mark.parametrize("rule", RULES)
def test_a_constant_map_stays_constant(rule: str) -> None:
    found = _ours(torch.full((5, 5, 2), 3.0), (3, 11), *RULES[rule])
    assert torch.allclose(found, torch.tensor(3.0), atol=1e-5)


HEAD_DIM = 64
TURNS = [(1, 1), (14, 14), (3, 7), (7, 3), (1, 16), (37, 41), (64, 64)]


@pytest.mark.parametrize("grid", TURNS)
def test_a_rotary_map_equals_timm_s(grid: tuple[int, int]) -> None:
    rope = RotaryEmbeddingDinoV3(HEAD_DIM, temperature=100.0, rotate_half=True).eval()
    found = position_map(RotaryPosition(head_dim=HEAD_DIM), rope.periods.numpy(), grid)
    expected = rope.get_embed(list(grid)).reshape(*grid, 2 * HEAD_DIM)
    assert difference(torch.from_numpy(found), expected) <= TOLERANCE


@pytest.mark.parametrize("grid", TURNS)
def test_a_rotary_map_equals_that_of_transformers(grid: tuple[int, int]) -> None:
    config = transformers.DINOv3ViTConfig(hidden_size=2 * HEAD_DIM, num_attention_heads=2)
    rope = DINOv3ViTRopePositionEmbedding(config).eval()
    cos, sin = rope(torch.zeros(1, 3, 16 * grid[0], 16 * grid[1]))
    periods = (1 / rope.inv_freq).numpy()
    found = position_map(RotaryPosition(head_dim=HEAD_DIM), periods, grid)
    expected = torch.cat([sin, cos], dim=-1).reshape(*grid, 2 * HEAD_DIM)
    assert difference(torch.from_numpy(found), expected) <= TOLERANCE


def test_a_rotary_map_turns_with_rows_first_and_then_columns() -> None:
    periods = np.array([1.0, 7.0], np.float32)
    found = position_map(RotaryPosition(head_dim=8), periods, (2, 4))
    y, x = -0.5, 0.75  # the centres of row 0 of 2 and column 3 of 4 in [-1, 1]
    angles = [2 * np.pi * y, 2 * np.pi * y / 7, 2 * np.pi * x, 2 * np.pi * x / 7] * 2
    assert found.shape == (2, 4, 16)
    assert np.allclose(found[0, 3], [*np.sin(angles), *np.cos(angles)], atol=1e-6)
