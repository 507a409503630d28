from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from export_graphs import lowest_cosine, proto
from export_helpers import random_pixels
from standins.backbones import CLIP, all_outputs, tiny
from torch import nn

from clsspec_export.backbone import Backbone
from clsspec_export.onnx_graph import export_graph
from clsspec_export.pixels import fold_pixels
from clsspec_serve.engines.openvino import _core
from clsspec_serve.errors import ExportError
from clsspec_serve.manifest import Preprocessing

PREPROCESSING = Preprocessing(
    size=(56, 56),
    policy="squash",
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def normalise(pixels: np.ndarray) -> torch.Tensor:
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    return torch.from_numpy((pixels[:, :3] / 255 - mean) / std * pixels[:, 3:])


def seeded_conv(bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 16, 14, 14, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
def test_folding_is_exact_up_to_the_rounding_of_fp32(bias: bool) -> None:
    conv, pixels = seeded_conv(bias), random_pixels(2, 42, 56)
    expected = conv.double()(normalise(pixels)).flatten(2).transpose(1, 2)
    folded = fold_pixels(conv, PREPROCESSING).double()(torch.from_numpy(pixels).double())
    assert (folded - expected).abs().max() < 1e-6 * expected.abs().max()


def test_a_patch_of_padding_embeds_to_the_bias() -> None:
    conv = seeded_conv()
    padding = torch.zeros(1, 4, 14, 14)
    assert torch.equal(fold_pixels(conv, PREPROCESSING)(padding).flatten(), conv.bias)


def test_black_pixels_are_not_padding() -> None:
    conv, black = seeded_conv(), np.zeros((1, 4, 14, 14), np.uint8)
    black[:, 3] = 1
    folded = fold_pixels(conv, PREPROCESSING)(torch.from_numpy(black).float()).flatten()
    expected = conv(normalise(black).float()).flatten()
    assert torch.allclose(folded, expected, atol=1e-5)
    assert not torch.allclose(folded, conv.bias, atol=0.1)


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv2d(3, 8, 14, 7), "side by side"),
        (nn.Conv2d(3, 8, (14, 7), (14, 7)), "square"),
        (nn.Conv2d(3, 8, 14, 14, padding=1), "without padding"),
        (nn.Conv2d(1, 8, 14, 14), "RGB"),
    ],
)
def test_other_patch_embeddings_are_refused(conv: nn.Conv2d, reason: str) -> None:
    with pytest.raises(ExportError, match=reason):
        fold_pixels(conv, PREPROCESSING)


HAS_BF16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.skipif(not HAS_BF16, reason="the CPU has no bf16 instructions")
def test_patches_of_16_are_right_in_bf16_on_openvino(tmp_path: Path) -> None:
    """As a convolution of four channels they are wrong with AMX: the cosine is below a half."""
    checkpoint = tiny(CLIP, embed_dim=96, depth=1)
    outputs = all_outputs(checkpoint)
    embed = fold_pixels(checkpoint.model.patch_embed.proj, checkpoint.preprocessing)
    export_graph(Backbone(checkpoint.model, outputs, embed), tmp_path / "model.onnx")
    assert "Conv" not in {node.op_type for node in proto(tmp_path / "model.onnx").graph.node}
    for batch, grid in ((1, (14, 14)), (2, (3, 5))):
        found = lowest_cosine(
            *(checkpoint, outputs, tmp_path / "model.onnx", "openvino"),
            batch=batch,
            grid=grid,
            precision="bf16",
        )
        assert found > 0.999
