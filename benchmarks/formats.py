"""Every checkpoint format through the whole road, against the library that the format belongs to.

    python benchmarks/formats.py

Writes an S model with random weights in each format, exports it, and compares what the engines
give with what transformers or timm themselves give on the same normalised photograph, [CLS] and
patches together, relative to the largest value. A clsspec checkpoint has no library of its own:
there it is the PyTorch model that was saved.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import transformers
from timm.models import save_for_hf
from torch import Tensor, nn

from clsspec_export.architectures import create
from clsspec_export.checkpoints.checkpoint import Origin
from clsspec_export.checkpoints.native import save_native
from clsspec_export.checkpoints.read import read_checkpoint
from clsspec_export.export import export_bundle, lift
from clsspec_export.random_weights import randomize
from clsspec_export.samples import photographs
from clsspec_serve.engines.select import running_engines
from clsspec_serve.loading import load

Tokens = Callable[[Tensor], Tensor]
"""Normalised pixels `(1, 3, H, W)` to tokens `(1, prefix + h * w, D)`, as the library has it."""

PLAIN, REGISTERS = "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
DEIT3, DINOV3 = "deit3_small_patch16_224", "vit_small_patch16_dinov3_qkvb"


def timm_model(name: str) -> nn.Module:
    """timm's architecture with random weights, for any input size."""
    model = timm.create_model(name, num_classes=0, dynamic_img_size=True).eval()
    randomize(model)
    return model


def written(folder: Path) -> Iterator[tuple[str, Path, dict[str, Any], Tokens]]:
    """Format, where it was written, arguments of `read_checkpoint`, and the library's tokens."""
    for kind, registers in (("Dinov2", 0), ("Dinov2WithRegisters", 4), ("DINOv3ViT", 4)):
        size = {} if kind.startswith("DINOv3") else {"image_size": 518, "patch_size": 14}
        extra = {"num_register_tokens": registers} if registers else {}
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=384, num_attention_heads=6, **size, **extra
        )
        model = getattr(transformers, f"{kind}Model")(config).eval()
        randomize(model)
        path = folder / kind
        model.save_pretrained(path)
        processor = "DINOv3ViTImageProcessor" if "v3" in kind else "BitImageProcessor"
        getattr(transformers, processor)().save_pretrained(path)
        yield f"Hugging Face {kind}", path, {}, lambda x, m=model: m(x).last_hidden_state

    for label, name in (("DINOv2 hub", PLAIN), ("DINOv2 hub, registers", REGISTERS)):
        model = timm_model(name)
        state = dict(model.state_dict()) | {"mask_token": torch.zeros(1, 384)}
        if "reg_token" in state:
            state["register_tokens"] = state.pop("reg_token")
            first = torch.randn(1, 1, 384)
            state["cls_token"] = state["cls_token"] - first
            state["pos_embed"] = torch.cat([first, state["pos_embed"]], dim=1)
        path = folder / f"{name}.pth"
        torch.save(state, path)
        yield label, path, {}, model.forward_features
        if name == PLAIN:
            path = folder / "teacher_checkpoint.pth"
            torch.save({"teacher": {f"backbone.{k}": v for k, v in state.items()}}, path)
            yield "DINOv2 training file", path, {}, model.forward_features

    model = timm_model(DEIT3)
    state = {re.sub(r"ls(\d)\.gamma", r"gamma_\1", k): v for k, v in model.state_dict().items()}
    path = folder / "deit3.pth"
    torch.save({"model": state}, path)
    yield "DeiT-III", path, {}, model.forward_features

    model = timm_model(DINOV3)
    path = folder / "dinov3.pth"
    torch.save(_dinov3_hub(model), path)
    yield "DINOv3 hub", path, {}, model.forward_features

    model = timm_model(REGISTERS)
    path = folder / "timm.pth"
    torch.save(model.state_dict(), path)
    yield "timm file", path, {"architecture": REGISTERS}, model.forward_features
    save_for_hf(model, folder / "timm", safe_serialization=True)
    yield "timm folder", folder / "timm", {}, model.forward_features

    for name in ("vit_small_patch14_attnbias_dinov2_clsspec", "vit_small_patch16_dinov3_clsspec"):
        model = create(name, dynamic_img_size=True)
        randomize(model)
        path = folder / f"{name}.safetensors"
        save_native(model, path, architecture=name)
        yield f"clsspec, {name}", path, {}, model.forward_features


def _dinov3_hub(model: nn.Module) -> dict[str, Tensor]:
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("q_bias"):
            block = key.removesuffix("q_bias")
            third = torch.zeros_like(value)
            v_bias = model.state_dict()[f"{block}v_bias"]
            state[f"{block}qkv.bias"] = torch.cat([value, third + 7, v_bias])
            state[f"{block}qkv.bias_mask"] = torch.cat([third + 1, third, third + 1])
        elif not key.endswith("v_bias"):
            name = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            state[name.replace("reg_token", "storage_tokens")] = value
    state["rope_embed.periods"] = model.rope.periods
    return state


@torch.inference_mode()
def main() -> None:
    """Print a Markdown table."""
    photograph = photographs()[0]
    engines = running_engines()
    print(f"| format | {' | '.join(engines)} |")
    print(f"|---|{'---|' * len(engines)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, path, arguments, tokens in written(folder):
            checkpoint = lift(read_checkpoint(path, **arguments))
            bundle = folder / "bundle"
            export_bundle(checkpoint, bundle, Origin(label), replace=bundle.exists())
            seen = []
            for engine in engines:
                model = load(bundle, engine=engine)
                # The size at which the tables are native, where all libraries agree on the rule.
                size = (518, 518) if model.manifest.architecture.patch_size == 14 else (224, 224)
                request = model.request(size=size, policy="squash")
                prepared = model.prepare(photograph, request)
                found = model.finish(
                    prepared, model.forward(prepared.pixels[None], request), request
                )
                mean, std = (
                    np.array(values, np.float32).reshape(3, 1, 1)
                    for values in (
                        model.manifest.preprocessing.mean,
                        model.manifest.preprocessing.std,
                    )
                )
                image = (prepared.pixels[:3].astype(np.float32) / 255 - mean) / std
                expected = tokens(torch.from_numpy(image).unsqueeze(0))[0].numpy()
                width = expected.shape[-1]
                patches = found.patches.reshape(-1, width)
                got = np.concatenate([found.cls[None], patches])
                want = np.concatenate([expected[:1], expected[-len(patches) :]])
                seen.append(f"{np.abs(got - want).max() / np.abs(want).max():.1e}")
            print(f"| {label} | {' | '.join(seen)} |", flush=True)


if __name__ == "__main__":
    main()
