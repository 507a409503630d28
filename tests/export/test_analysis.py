"""The analysis against cosine matrices of what hooks catch in timm's own models and in ours."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from standins.backbones import (
    CLIP,
    DINOV2,
    DINOV3,
    EVA,
    FAMILIES,
    REG4,
    SWIGLU,
    WIDTH,
    all_outputs,
    families,
    tiny,
)
from torch import Tensor, nn

from clsspec_export.analysis import (
    POINTS,
    ObservedBackbone,
    Row,
    analyze,
    prepare,
    similarities,
)
from clsspec_export.backbone import Backbone
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.timm_files import timm_checkpoint
from clsspec_export.export import lift
from clsspec_export.random_weights import randomize
from clsspec_export.reference import Reference, torch_position
from clsspec_serve.errors import CheckpointError, ImageError, UsageError

SCALED = ("attention_scaled", "mlp_scaled")

Seen = dict[tuple[int, str], list[Tensor]]
"""Block and point to the tokens `(N, D)` of every picture."""


def _pictures(patch: int, grids: list[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(3)
    found = []
    for rows, columns in grids:
        pixels = generator.integers(0, 256, (4, patch * rows, patch * columns), np.uint8)
        pixels[3] = 1
        found.append(pixels)
    return found


def _patch(checkpoint: Checkpoint) -> int:
    return int(checkpoint.model.patch_embed.proj.kernel_size[0])


def _watch(blocks: nn.ModuleList, norm: nn.Module) -> Seen:
    """Hooks on the modules of timm's blocks, or of ours, that keep what passes through them."""
    seen: Seen = {}

    def keep(block: int, point: str, value: Tensor) -> None:
        seen.setdefault((block, point), []).append(value[0].clone())

    def before(module: nn.Module, block: int, point: str) -> None:
        module.register_forward_pre_hook(lambda _, args: keep(block, point, args[0]))

    def after(module: nn.Module, block: int, point: str, gamma: Tensor | None = None) -> None:
        def hook(_: nn.Module, args: object, value: Tensor) -> None:
            keep(block, point, value if gamma is None else value * gamma)

        module.register_forward_hook(hook)

    for index, block in enumerate(blocks):
        before(block.norm1, index, "before_norm1")
        after(block.norm1, index, "after_norm1")
        after(block.attn, index, "attention")
        before(block.norm2, index, "before_norm2")
        after(block.norm2, index, "after_norm2")
        after(block.mlp, index, "mlp")
        after(block, index, "block_output")
        if getattr(block, "gamma_1", None) is not None:
            after(block.attn, index, SCALED[0], block.gamma_1)
            after(block.mlp, index, SCALED[1], block.gamma_2)
        elif not isinstance(getattr(block, "ls1", nn.Identity()), nn.Identity):
            after(block.ls1, index, SCALED[0])
            after(block.ls2, index, SCALED[1])
    if not isinstance(norm, nn.Identity):
        after(norm, len(blocks) - 1, "after_final_norm")
    return seen


def _by_matrix(tokens: Tensor, prefix: int) -> tuple[float, float]:
    """Both means from the whole matrix of cosines, one product of two vectors at a time."""
    vectors = [token.double() for token in tokens]
    cosine = [[float(a @ b / (a.norm() * b.norm())) for b in vectors] for a in vectors]
    patches = range(prefix, len(vectors))
    pairs = [cosine[i][j] for i in patches for j in patches if i != j]
    return float(np.mean([cosine[0][j] for j in patches])), float(np.mean(pairs))


def _expected(seen: Seen, prefix: int) -> dict[tuple[int, str], list[float]]:
    """The four numbers of each row."""
    rows = {}
    for key, pictures in seen.items():
        pairs = np.array([_by_matrix(tokens, prefix) for tokens in pictures])
        mean, std = pairs.mean(axis=0), pairs.std(axis=0, ddof=1)
        rows[key] = [mean[0], std[0], mean[1], std[1]]
    return rows


def _numbers(rows: list[Row]) -> dict[tuple[int, str], list[float | None]]:
    return {
        (row.block, row.point): [
            row.cls_patch_mean,
            row.cls_patch_std,
            row.patch_patch_mean,
            row.patch_patch_std,
        ]
        for row in rows
    }


def _require_equal(rows: list[Row], expected: dict[tuple[int, str], list[float]]) -> None:
    found = _numbers(rows)
    assert found.keys() == expected.keys()
    for key, numbers in expected.items():
        np.testing.assert_allclose(found[key], numbers, rtol=0, atol=2e-5, err_msg=str(key))


@pytest.mark.parametrize("base", [DINOV2, REG4, SWIGLU, CLIP, DINOV3, EVA])
def test_similarities_are_those_inside_of_timms_own_model(base: str) -> None:
    patch = 16 if "patch16" in base else 14
    size = {"embed_dim": WIDTH, "depth": 3, "num_heads": 3, "img_size": 4 * patch}
    model = timm.create_model(base, num_classes=0, dynamic_img_size=True, **size).eval()
    randomize(model)
    untouched = copy.deepcopy(model)
    checkpoint = timm_checkpoint(model, base)
    pictures = _pictures(patch, [(4, 4), (3, 5), (2, 6)])

    seen = _watch(untouched.blocks, untouched.norm)
    normalise = Reference(checkpoint, ()).normalise
    with torch.inference_mode():
        for pixels in pictures:
            untouched.forward_features(normalise(pixels[None]))
    rows = analyze(checkpoint, pictures)
    _require_equal(rows, _expected(seen, untouched.num_prefix_tokens))
    assert {row.images for row in rows} == {3}


@pytest.mark.parametrize("family", FAMILIES)
def test_similarities_are_those_of_what_hooks_catch_in_the_backbone(family: str) -> None:
    checkpoint = families()[family]()
    pictures = _pictures(_patch(checkpoint), [(4, 4), (3, 5)])
    rows = analyze(checkpoint, pictures)

    normed = not isinstance(checkpoint.model.norm, nn.Identity)
    last = [
        output for output in all_outputs(checkpoint) if (output.layer, output.norm) == (1, normed)
    ]
    reference = Reference(checkpoint, last)
    seen = _watch(checkpoint.model.blocks, checkpoint.model.norm)
    for pixels in pictures:
        reference.sample(pixels[None])
    _require_equal(rows, _expected(seen, checkpoint.model.num_prefix_tokens))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_through_the_points_gives_exactly_the_backbones_features(family: str) -> None:
    checkpoint = families()[family]()
    outputs = all_outputs(checkpoint)
    seen: list[tuple[int, str]] = []
    observed = ObservedBackbone(
        checkpoint.model, lambda block, point, tokens: seen.append((block, point)), outputs
    )
    (pixels,) = _pictures(_patch(checkpoint), [(3, 5)])
    image = Reference(checkpoint, ()).normalise(pixels[None])
    position = torch_position(checkpoint.position, checkpoint.table, (3, 5))
    with torch.inference_mode():
        expected = Backbone(checkpoint.model, outputs)(image, position)
        found = observed(image, position)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    names = checkpoint.model.state_dict()
    missing = {"after_final_norm"}
    if not any(".ls1." in name for name in names):
        missing |= set(SCALED)
    final = [(1, "after_final_norm")] if any(name.startswith("norm.") for name in names) else []
    points = [(block, point) for block in (0, 1) for point in POINTS if point not in missing]
    assert seen == points + final


def test_the_families_are_with_and_without_layer_scale_and_final_norm() -> None:
    """Which the test above takes from the weights."""
    names = {family: "\n".join(families()[family]().model.state_dict()) for family in FAMILIES}
    assert 0 < sum(".ls1." in text for text in names.values()) < len(names)
    assert 0 < sum("\nnorm." in text for text in names.values()) < len(names)


def test_the_output_of_a_block_is_what_the_next_one_has_before_its_norm() -> None:
    checkpoint = tiny(REG4)
    numbers = _numbers(analyze(checkpoint, _pictures(14, [(4, 4), (3, 5)])))
    assert numbers[0, "block_output"] == numbers[1, "before_norm1"]


def test_lifting_a_plain_checkpoint_changes_no_similarity() -> None:
    pictures = _pictures(14, [(4, 4), (3, 5)])
    before = analyze(tiny(REG4), pictures)
    lifted = lift(tiny(REG4))
    assert lifted.model.specialization.norms
    _require_equal(analyze(lifted, pictures), _numbers(before))


def test_weights_of_its_own_for_cls_show_at_the_norm_and_not_before() -> None:
    pictures = _pictures(14, [(4, 4), (3, 5)])
    checkpoint = lift(tiny())
    before = _numbers(analyze(checkpoint, pictures))
    with torch.no_grad():
        checkpoint.model.blocks[1].norm1.cls.weight.neg_()
        checkpoint.model.blocks[1].norm1.cls.bias.neg_()
    after = _numbers(analyze(checkpoint, pictures))
    first = [key for key in before if key[0] == 0]
    assert [after[key] for key in first] == [before[key] for key in first]
    assert after[1, "before_norm1"] == before[1, "before_norm1"]
    (cls, _, patches, _), (mirrored, _, same, _) = before[1, "after_norm1"], after[1, "after_norm1"]
    assert mirrored == pytest.approx(-cls)
    assert same == patches


def _vectors(*values: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The first as [CLS], the others as patches."""
    tokens = torch.tensor(values)
    return tokens[0], tokens[1:]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([(1, 2, 2), (1, 2, 2), (1, 2, 2)], (1, 1)),
        ([(1, 2, 2), (3, 6, 6), (0.5, 1, 1)], (1, 1)),
        ([(1, 0, 0, 0), (0, 5, 0, 0), (0, 0, 2, 0), (0, 0, 0, 7)], (0, 0)),
        ([(1, 0), (-2, 0), (-3, 0)], (-1, 1)),
        ([(1, 0), (1, 0), (-1, 0)], (0, -1)),
        ([(1, 0), (1, 1), (0, 1)], (math.sqrt(0.5) / 2, math.sqrt(0.5))),
        # Three in a plane at 120 degrees: every pair at -1/2.
        ([(1, 0), (1, 0), (-0.5, math.sqrt(0.75)), (-0.5, -math.sqrt(0.75))], (0, -0.5)),
    ],
)
def test_similarities_of_vectors_drawn_by_hand(
    tokens: list[tuple[float, ...]], expected: tuple[float, float]
) -> None:
    assert similarities(*_vectors(*tokens)) == pytest.approx(expected, abs=1e-7)


def test_a_zero_vector_is_like_nothing_and_a_tiny_or_huge_one_has_its_direction() -> None:
    assert similarities(*_vectors((1, 0), (0, 0), (1, 0), (1, 0))) == pytest.approx((2 / 3, 1 / 3))
    assert similarities(*_vectors((0, 0), (1, 0), (1, 0))) == (0, 1)
    assert similarities(*_vectors((1e-30, 0), (1e-40, 0), (3e38, 0))) == pytest.approx((1, 1))


def test_nearly_equal_tokens_keep_their_small_distance() -> None:
    """A sum in float32 would lose it: 1 - cos is about 2e-8 here."""
    tokens = torch.ones(1370, 64) + torch.arange(1370)[:, None] % 2 * torch.eye(64)[0] * 1.6e-3
    cls, patches = tokens[0], tokens[1:].double()
    apart = patches / patches.norm(dim=1, keepdim=True)
    matrix = apart @ apart.T
    pairs = (matrix.sum() - matrix.trace()) / (1369 * 1368)
    distance = 1 - similarities(cls, tokens[1:])[1]
    assert distance == pytest.approx(1 - float(pairs), rel=1e-4)
    assert 1e-9 < distance < 1e-7


def test_one_picture_has_no_deviation() -> None:
    rows = analyze(tiny(), _pictures(14, [(4, 4)]))
    assert {(row.images, row.cls_patch_std, row.patch_patch_std) for row in rows} == {
        (1, None, None)
    }


def test_pictures_are_taken_one_at_a_time_and_then_let_go() -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for _ in range(4):
            assert sum(ref() is not None for ref in alive) <= 1
            (pixels,) = _pictures(14, [(2, 2)])
            alive.append(weakref.ref(pixels))
            yield pixels
            del pixels

    assert analyze(tiny(), pictures())[0].images == 4


def test_no_pictures_one_patch_and_values_beyond_float32_are_refused() -> None:
    checkpoint = tiny()
    with pytest.raises(UsageError, match=r"^no pictures; the analysis needs one or more$"):
        analyze(checkpoint, [])
    with pytest.raises(UsageError, match=r"^a picture of one patch has no pairs; a larger --size"):
        analyze(checkpoint, _pictures(14, [(2, 2), (1, 1)]))
    with torch.no_grad():
        checkpoint.model.blocks[1].mlp.fc2.bias.fill_(3e38)
        checkpoint.model.blocks[1].ls2.gamma.fill_(2)
    with pytest.raises(
        CheckpointError, match=r"^block 1, output of the MLP, after LayerScale: the values are not"
    ):
        analyze(checkpoint, _pictures(14, [(2, 2)]))


def test_a_picture_is_prepared_by_the_checkpoints_own_transform(tmp_path: Path) -> None:
    """Of the model's own size, no resampling is left: the bytes themselves, coverage 1."""
    checkpoint = tiny()
    side = checkpoint.preprocessing.size[0]
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = prepare(checkpoint, tmp_path / "a.png")
    assert np.array_equal(found[:3], pixels.transpose(2, 0, 1))
    assert (found[3] == 1).all()
    assert prepare(checkpoint, tmp_path / "a.png", size=(30, 40)).shape == (4, 42, 42)
    with pytest.raises(ImageError, match=r"gone\.png: cannot be opened"):
        prepare(checkpoint, tmp_path / "gone.png")
    Image.fromarray(np.zeros((2, 20000, 3), np.uint8)).save(tmp_path / "long.png")
    with pytest.raises(ImageError, match=r"long\.png: a picture of 2x20000 would be resampled"):
        prepare(checkpoint, tmp_path / "long.png", size=(5600, 5600), policy="crop")
