from __future__ import annotations

import pytest
import torch
from standins.backbones import CLIP, DINOV2, DINOV3, EVA, REG4, SWIGLU, tiny
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from clsspec_export.architectures import describe
from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.specialize import PLAIN, specialize
from clsspec_serve.arithmetic import token_counts, total_macs, weight_products
from clsspec_serve.manifest import Architecture, Specialization

BASES = (DINOV2, REG4, SWIGLU, CLIP, DINOV3, EVA)
SPLITS = (
    None,
    Specialization(qkv_blocks=1),
    Specialization(qkv_blocks=2, registers_with="patch"),
    Specialization(norms=False, layer_scale=False),
)


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    return describe(checkpoint.architecture, checkpoint.model)


def hooked_products(checkpoint: Checkpoint, side: int) -> list[tuple[int, int, int]]:
    """(tokens, in, out) of every `nn.Linear` in the order in which a forward pass calls them."""
    calls = []

    def hook(module: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        calls.append((inputs[0].shape[1], module.in_features, module.out_features))

    for module in checkpoint.model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(hook)
    with torch.inference_mode():
        checkpoint.model(torch.zeros(1, 3, side, side))
    return calls


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("split", SPLITS, ids=["plain", "cls", "patch", "final norm"])
def test_the_products_are_those_that_a_forward_pass_calls(
    base: str, split: Specialization | None
) -> None:
    checkpoint = tiny(base, split)
    counted = weight_products(architecture_of(checkpoint), (4, 4))
    called = hooked_products(checkpoint, checkpoint.preprocessing.size[0])
    assert [product[1:] for product in counted] == called


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("attention_bias", [False, True])
@pytest.mark.parametrize("split", SPLITS[:2], ids=["plain", "specialized"])
def test_the_total_is_what_torch_counts_itself(
    base: str, attention_bias: bool, split: Specialization | None
) -> None:
    """torch's counter sees every product that its kernels run, attention's too."""
    checkpoint = tiny(base, split, attention_bias=attention_bias)
    side = checkpoint.preprocessing.size[0]
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        checkpoint.model(torch.zeros(1, 3, side, side))
    assert counter.get_total_flops() == 2 * total_macs(architecture_of(checkpoint), (4, 4))


def test_the_count_of_an_untouched_timm_model_is_the_same() -> None:
    import timm

    small = timm.create_model("vit_small_patch14_dinov2", img_size=70, num_classes=0).eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        small(torch.zeros(1, 3, 70, 70))
    architecture = describe("small", specialize(small, PLAIN))
    assert counter.get_total_flops() == 2 * total_macs(architecture, (5, 5))


@pytest.mark.parametrize("split", SPLITS[1:])
@pytest.mark.parametrize("grid", [(1, 1), (4, 4), (16, 9)])
def test_a_specialized_backbone_costs_what_its_plain_twin_costs(
    split: Specialization, grid: tuple[int, int]
) -> None:
    twin = architecture_of(tiny(REG4))
    specialized = twin.model_copy(update={"specialization": split})
    assert total_macs(specialized, grid) == total_macs(twin, grid)


@pytest.mark.parametrize(
    ("split", "counts"),
    [(None, (5, 12)), (SPLITS[1], (5, 12)), (SPLITS[2], (1, 16))],
    ids=["plain", "cls", "patch"],
)
def test_registers_count_with_the_weights_they_take(
    split: Specialization | None, counts: tuple[int, int]
) -> None:
    architecture = architecture_of(tiny(REG4, split))
    assert token_counts(architecture, (3, 4)) == counts


def test_products_are_named_by_their_layer() -> None:
    products = weight_products(architecture_of(tiny(DINOV2, SPLITS[1])), (4, 4))
    assert [product.layer for product in products] == [
        "blocks.0.attn.qkv.cls",
        "blocks.0.attn.qkv.patch",
        "blocks.0.attn.proj",
        "blocks.0.mlp",
        "blocks.0.mlp",
        "blocks.1.attn.qkv",
        "blocks.1.attn.proj",
        "blocks.1.mlp",
        "blocks.1.mlp",
    ]
    assert products[1].macs == 16 * 72 * 216
