"""Head files as the evaluation code of DINOv2 and DINOv3 writes them, with random weights.

Every writer returns the tensors under the official names, without the prefix of the decoder.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clsspec_serve.manifest import Architecture, Preprocessing

WIDTH = 24
State = dict[str, Tensor]


def architecture(**changes: Any) -> Architecture:
    """12 blocks, 24 wide."""
    import tiny_bundle

    size = {"embed_dim": WIDTH, "depth": 12}
    return tiny_bundle.tiny_manifest().architecture.model_copy(update=size | changes)


def preprocessing() -> Preprocessing:
    """One that differs from every official protocol."""
    return Preprocessing(
        size=(70, 84),
        resize=(77, 92),
        policy="squash",
        interpolation="lanczos",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )


def convolution(rows: int, width: int, seed: int = 0) -> State:
    """`weight (K, C, 1, 1)` and `bias (K,)`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(rows, width, 1, 1, generator=generator) / width**0.5,
        "bias": torch.randn(rows, generator=generator),
    }


def linear(rows: int, width: int, seed: int = 0) -> State:
    """`weight (K, C)` and `bias (K,)`."""
    state = convolution(rows, width, seed)
    return state | {"weight": state["weight"][:, :, 0, 0].clone()}


def batch_norm(width: int, seed: int = 1) -> State:
    """What a BatchNorm saves; some variances are so small that its eps shows."""
    generator = torch.Generator().manual_seed(seed)
    scale, shift, mean, variance = torch.randn(4, width, generator=generator)
    norm = nn.BatchNorm2d(width).state_dict()
    norm |= {"weight": 0.1 * scale, "bias": shift, "running_mean": mean}
    variance = variance.abs() + 0.1
    variance[:: max(width // 8, 1)] = 2e-5
    norm["weight"][variance < 1e-4] *= 0.01
    return norm | {"running_var": variance, "num_batches_tracked": torch.tensor(40_000)}


def named(prefix: str, state: State) -> State:
    """The tensors under `prefix.`."""
    return {f"{prefix}.{key}": value for key, value in state.items()}


def dinov2_segmentation(path: Path, width: int, classes: int) -> State:
    """As `dinov2_vits14_ade20k_linear_head.pth`, which mmcv wrote."""
    state = named("conv_seg", convolution(classes, width)) | named("bn", batch_norm(width))
    return _mmcv(path, state, {"mmseg_version": "0.27.0", "CLASSES": ["wall"] * classes})


def dinov2_depth(
    path: Path, width: int, bins: int = 256, *, scalars: str = "numpy.core.multiarray"
) -> State:
    """As `dinov2_vits14_nyu_linear4_head.pth`; its best score is a NumPy scalar.

    `scalars`: the module that NumPy kept them in, which changed with NumPy 2.
    """
    state = named("conv_depth", convolution(bins, width))
    best = {"best_score": np.float64(0.3), "epoch": 1, "last": np.float32(1), "n": np.int64(3)}
    _mmcv(path, state, {"hook_msgs": best})
    rename_in_pickle(path, b"cnumpy._core.multiarray\n", f"c{scalars}\n".encode())
    return state


def dinov3_segmentation(path: Path, width: int, classes: int, prefix: str = "") -> State:
    """As the `model_final.pth` of DINOv3's linear segmentation."""
    state = named("conv", convolution(classes, width)) | named("batchnorm_layer", batch_norm(width))
    _dinov3(path, named(f"{prefix}segmentation_model.1", state))
    return state


def dinov3_depth(
    path: Path, width: int, bins: int = 256, *, normed: bool = True, prefix: str = ""
) -> State:
    """As the `model_00038400.pth` of DINOv3's linear depth estimation."""
    state = named("conv_depth", convolution(bins, width))
    if normed:
        state |= named("batchnorm_layer", batch_norm(width))
    _dinov3(path, {f"{prefix}{key}": value for key, value in state.items()})
    return state


def classifier_name(blocks: int, rate: str, *, pooled: bool = True) -> str:
    """What the linear evaluations call a classifier."""
    return f"classifier_{blocks}_blocks_avgpool_{pooled}_lr_{rate}"


def classifiers(
    path: Path, shapes: dict[str, tuple[int, int]], *, prefix: str = "", key: str | None = None
) -> dict[str, State]:
    """As the `checkpoint.pth` of DINOv3's linear evaluation: several learning rates at once.

    DINOv2's has `key` "model".
    """
    states = {name: linear(*shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    tensors: State = {}
    for name, state in states.items():
        tensors |= named(f"{prefix}classifiers_dict.{name}.linear", state)
    content = {"iteration": 9, "optimizer": {"state": {}}, "best_accuracy": 0.5}
    torch.save({**content, key or "linear_classifiers": tensors}, path)
    return states


def rename_in_pickle(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes of the pickle inside of a file that torch wrote; they must be there."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickle = next(name for name in parts if name.endswith("data.pkl"))
    if old not in parts[pickle]:
        raise ValueError(f"{path} does not hold {old!r}")
    parts[pickle] = parts[pickle].replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _mmcv(path: Path, state: State, meta: dict[str, Any]) -> State:
    torch.save({"meta": meta, "state_dict": named("decode_head", state)}, path)
    return state


def _dinov3(path: Path, state: State) -> None:
    optimizer = torch.optim.AdamW([nn.Parameter(next(iter(state.values())))])
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "iteration": 38_400}, path)
