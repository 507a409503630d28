"""What `benchmarks/peers.py` compares: each tool as its documentation says, on the same weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino
import torch
import transformers
from bare_bundle import write_bare_bundle
from numpy.typing import NDArray
from peers_workers import Worker, Workers
from torch import nn

from clsspec_export.checkpoints.checkpoint import Checkpoint
from clsspec_export.checkpoints.preprocessing import from_timm
from clsspec_export.checkpoints.random import FORMAT
from clsspec_export.checkpoints.timm_files import timm_position
from clsspec_export.specialize import PLAIN, ViT, specialize
from clsspec_serve.bench.asked import runners
from clsspec_serve.bundle import Bundle
from clsspec_serve.choices import EngineName, Precision
from clsspec_serve.engines.without_telemetry import onnxruntime
from clsspec_serve.layers import FEATURES
from clsspec_serve.loading import start

BASE = "timm fp32"
OURS = "clsspec, "
SAMPLES = Path(str(files("clsspec_export"))) / "photographs"

FloatArray = NDArray[np.float32]


class Batch(NamedTuple):
    """The same pictures as clsspec takes them, `(B, 4, H, W) uint8`, and normalised."""

    pixels: NDArray[np.uint8]
    normalised: torch.Tensor


Forward = Callable[[Batch], Any]


class Candidate(NamedTuple):
    """`tokens`: what a pass gives, as `(B, 1 + h * w, D)`; that is not timed."""

    name: str
    build: Callable[[], Forward]
    tokens: Callable[[Any], FloatArray]


class Tokens(nn.Module):
    """timm's `forward_features` as a module, which is what torch.onnx exports."""

    def __init__(self, model: ViT) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, 3, H, W)` to `(B, 1 + h * w, D)`."""
        return self.model.forward_features(x)


def torch_forward(function: Callable[[torch.Tensor], Any], *, bf16: bool = False) -> Forward:
    """In `inference_mode`, and under autocast with `bf16`."""

    def forward(batch: Batch) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return function(batch.normalised)

    return forward


def dinov2(model: ViT, size: int) -> nn.Module:
    """transformers' model with the weights of timm's; raises `RuntimeError` where names differ."""
    config = transformers.Dinov2Config(
        hidden_size=model.embed_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=model.blocks[0].attn.num_heads,
        image_size=size,
        patch_size=model.patch_embed.patch_size[0],
    )
    there = transformers.Dinov2Model(config)
    state = {"embeddings.mask_token": torch.zeros(1, model.embed_dim)}
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks.": "encoder.layer.",
        "attn.proj": "attention.o_proj",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    for key, value in model.state_dict().items():
        name = f"layernorm.{key.removeprefix('norm.')}" if key.startswith("norm.") else key
        for old, new in names.items():
            name = name.replace(old, new)
        if "attn.qkv" in name:
            for part, share in zip("qkv", value.chunk(3), strict=True):
                state[name.replace("attn.qkv", f"attention.{part}_proj")] = share
        else:
            state[name] = value
    there.load_state_dict(state)
    return there.train(False)


def onnx_session(model: ViT, batch: Batch, path: Path) -> Forward:
    """As the tutorials of PyTorch and of ONNX Runtime do it."""
    export(model, batch, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch.normalised.numpy()})


def openvino_request(model: ViT, batch: Batch, path: Path) -> Forward:
    """As OpenVINO's guide does it: the precision is what it chooses for the CPU."""
    export(model, batch, path)
    request = openvino.compile_model(path, "CPU").create_infer_request()
    return lambda batch: [request.infer([batch.normalised.numpy()])[0]]


def optimum_worker(
    model: ViT, batch: Batch, folder: Path, workers: Workers, python: str
) -> Callable[[Batch], Worker]:
    """As Optimum's documentation does it, from what transformers saves, under its own Python.

    An image processor is saved, too, as any checkpoint has one: Optimum traces at its size.
    """
    size = batch.pixels.shape[-1]
    dinov2(model, size).save_pretrained(folder)
    crop = {"height": size, "width": size}
    transformers.BitImageProcessor(crop_size=crop).save_pretrained(folder)
    worker = workers.start(python, "peers_optimum.py", folder)
    return lambda batch: worker.forward(batch.normalised)


def export(model: ViT, batch: Batch, path: Path) -> None:
    """Write timm's model as PyTorch's tutorial does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx's own use of deprecated interfaces
        torch.onnx.export(Tokens(model), (batch.normalised,), path, dynamo=True, verbose=False)


def write_bundle(model: ViT, name: str, folder: Path) -> Bundle:
    """With the weights of timm's model; int8 is calibrated on the photographs of the export."""
    photographs = sorted(SAMPLES.glob("*.jpg"))
    plain = specialize(copy.deepcopy(model), PLAIN)
    position, table = timm_position(plain)
    checkpoint = Checkpoint(
        model=plain,
        architecture=name,
        format=FORMAT,
        position=position,
        table=table,
        preprocessing=from_timm(plain),
    )
    return write_bare_bundle(checkpoint, folder, ["int8"], photographs)


def our_tokens(found: dict[str, FloatArray]) -> FloatArray:
    """[CLS] before the patches."""
    cls = found["cls"][:, None]
    return np.concatenate([cls, found["patches"].reshape(len(cls), -1, cls.shape[-1])], axis=1)


def on_engine(bundle: Bundle, engine: EngineName, precision: Precision) -> Forward:
    """clsspec on an engine of its own."""
    model = start(bundle, engine=engine, precision=precision)
    return lambda batch: model.infer(batch.pixels, FEATURES, ())


def candidates(
    model: ViT, bundle: Bundle, batch: Batch, folder: Path, workers: Workers, optimum: str | None
) -> Iterator[Candidate]:
    """All of them for one length of batch; `BASE` comes first.

    `optimum`: a Python that has it, whose process is one of `workers`; without, it takes no part.
    """

    def read(found: torch.Tensor) -> FloatArray:
        return found.float().numpy()

    eager = model.forward_features
    # For this very batch, not for any: it has the shapes to work with.
    compiled = torch.compile(eager, dynamic=False)
    yield Candidate(BASE, lambda: torch_forward(eager), read)
    yield Candidate("timm bf16 autocast", lambda: torch_forward(eager, bf16=True), read)
    yield Candidate("timm fp32, torch.compile", lambda: torch_forward(compiled), read)
    yield Candidate(
        "transformers fp32",
        lambda: torch_forward(dinov2(model, batch.pixels.shape[-1])),
        lambda found: read(found.last_hidden_state),
    )
    yield Candidate(
        "ONNX Runtime fp32",
        lambda: onnx_session(model, batch, folder / f"{len(batch.pixels)}.onnx"),
        lambda found: found[0],
    )
    if optimum is not None:
        yield Candidate(
            "Optimum, onnxruntime fp32",
            lambda: optimum_worker(
                model, batch, folder / f"optimum-{len(batch.pixels)}", workers, optimum
            ),
            Worker.tokens,
        )
    yield Candidate(
        "OpenVINO, its own choice",
        lambda: openvino_request(model, batch, folder / f"{len(batch.pixels)}.onnx"),
        lambda found: found[0],
    )
    for runner in runners(bundle.manifest, None, None):
        yield Candidate(OURS + " ".join(runner), partial(on_engine, bundle, *runner), our_tokens)
