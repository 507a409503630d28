from __future__ import annotations

import copy

import numpy as np
import pytest
import timm
import torch
from standins.backbones import CLIP, DINOV2, DINOV3, EVA, REG4, SWIGLU, WIDTH

from clsspec_export.checkpoints.timm_files import timm_checkpoint
from clsspec_export.random_weights import randomize
from clsspec_export.reference import Reference
from clsspec_export.specialize import paper_specialization, specialize
from clsspec_serve.schema import Output


@pytest.mark.parametrize("base", [DINOV2, REG4, SWIGLU, CLIP, DINOV3, EVA])
@pytest.mark.parametrize("grid", [(4, 4), (3, 6), (7, 7)])
def test_features_are_those_of_timms_own_forward_pass(base: str, grid: tuple[int, int]) -> None:
    """timm's untouched model resizes its positions itself; here our blocks and our rule do."""
    patch = 16 if "patch16" in base else 14
    size = {"embed_dim": WIDTH, "depth": 3, "num_heads": 3, "img_size": 4 * patch}
    model = timm.create_model(base, num_classes=0, dynamic_img_size=True, **size).eval()
    randomize(model)
    untouched = copy.deepcopy(model)
    checkpoint = timm_checkpoint(model, base)
    specialize(checkpoint.model, paper_specialization(3))

    pixels = np.random.default_rng(0).integers(
        0, 256, (2, 4, patch * grid[0], patch * grid[1]), np.uint8
    )
    pixels[:, 3] = 1
    normed = not isinstance(untouched.norm, torch.nn.Identity)
    outputs = [Output(name=kind, kind=kind, layer=2, norm=normed) for kind in ("cls", "patches")]
    reference = Reference(checkpoint, outputs)
    found = reference.sample(pixels).outputs
    with torch.inference_mode():
        expected = untouched.forward_features(reference.normalise(pixels)).numpy()
    prefix = untouched.num_prefix_tokens
    np.testing.assert_allclose(found["cls"], expected[:, 0], rtol=0, atol=2e-5)
    patches = expected[:, prefix:].reshape(2, *grid, WIDTH)
    np.testing.assert_allclose(found["patches"], patches, rtol=0, atol=2e-5)
