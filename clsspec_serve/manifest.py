"""The schema of `clsspec.json`, the one description of a bundle."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from clsspec_serve.choices import (
    CropOffset,
    EngineName,
    HeadTask,
    Interpolation,
    Policy,
    Precision,
    Storage,
)
from clsspec_serve.heads import AnyHead
from clsspec_serve.schema import Count, Output, Positive, Scale, Sentence, Strict

SCHEMA_VERSION = 4
"""Raised with each new field, which an older clsspec refuses: it is then to say why."""

STORAGE: dict[Storage, str] = {
    "fp32": "fp32",
    "fp16": "fp16: the backbone's matrices are rounded to half precision; computing is fp32",
}
"""What a manifest's `storage` says, in words."""

OF_FP32: dict[EngineName, tuple[Precision, ...]] = {
    "cuda": ("fp32",),
    "onnxruntime": ("fp32",),
    "openvino": ("fp32", "bf16"),
    "tensorrt": ("fp32",),
}
"""What an engine makes of a graph in fp32; other precisions take graphs of their own."""


class Preprocessing(Strict):
    """How the source model's own evaluation turns a picture into its input.

    `size`, `resize`: (H, W) in pixels. `policy`: `squash` resizes to `resize`, ignoring the aspect
    ratio, and cuts `size` out of the centre; `crop` keeps the aspect ratio, covers `resize`, and
    cuts `size` out of the centre; `fit` keeps the aspect ratio, makes the area close to that of
    `size`, rounds both sides to the patch size, and cuts nothing; `short` keeps the aspect ratio,
    makes the short side that of `size`, and cuts nothing. Without `resize` it is `size`.
    `crop_offset`: `round` puts the crop at `round(margin / 2)`, half to even, as torchvision and
    timm do; `floor` at `margin // 2`, as transformers does.
    `mean`, `std`: per channel, of pixels in [0, 1].
    """

    size: tuple[Positive, Positive]
    resize: tuple[Positive, Positive] | None = None
    policy: Policy
    interpolation: Interpolation
    crop_offset: CropOffset = "round"
    mean: tuple[float, float, float]
    std: tuple[Scale, Scale, Scale]


class LearnedPosition(Strict):
    """A learned map `(h0, w0, D)` for the patches, resized to other grids by the source's own rule.

    `grid` is the native (h0, w0), at which the map is used as it is. The resize is bicubic; with
    `offset` its scale factor is `(h + offset) / h0`, as in DINOv2's hub code, otherwise the exact
    ratio of the sizes. The positions of [CLS] and registers are part of the graph.
    """

    kind: Literal["learned"] = "learned"
    grid: tuple[Positive, Positive]
    antialias: bool
    offset: float = 0.0


class RotaryPosition(Strict):
    """DINOv3's rotary embedding: patch centres in [-1, 1] per axis, one angle per period.

    The graph takes `(h, w, 2 * head_dim)`: sine, then cosine, each in the rotate-half layout. The
    bundle stores the `head_dim / 4` periods, since the original weights carry them rounded.
    """

    kind: Literal["rotary"] = "rotary"
    head_dim: Positive


class Specialization(Strict):
    """Which layers have weights of their own for [CLS] and for patches (arXiv 2602.08626, §4).

    `qkv_blocks` counts the leading blocks whose QKV projection is split; `registers_with` says
    which of the two the register tokens follow.
    """

    norms: bool = True
    final_norm: bool = True
    layer_scale: bool = True
    qkv_blocks: Count = 0
    registers_with: Literal["cls", "patch"] = "cls"

    def summary(self) -> str:
        """What is split, in words."""
        parts = {
            "norms": self.norms,
            "final norm": self.final_norm,
            "LayerScale": self.layer_scale,
            f"QKV of the first {self.qkv_blocks} blocks": self.qkv_blocks > 0,
        }
        names = ", ".join(name for name, present in parts.items() if present)
        return f"{names}; registers go with {self.registers_with}"


class Architecture(Strict):
    """The backbone in timm's terms.

    `mlp`: (in, out) of the MLP's matrices in order, two for a plain MLP, three for a gated one.
    `attention_bias` adds a learnable k', v' per layer and head.
    """

    name: str
    family: Literal["vit", "eva"]
    embed_dim: Positive
    depth: Positive
    num_heads: Positive
    mlp: tuple[tuple[Positive, Positive], ...]
    patch_size: Positive
    registers: Count
    final_norm: bool
    attention_bias: bool = False
    specialization: Specialization | None = None
    parameters: Positive


class File(Strict):
    """One file of the bundle; `sha256` in lower-case hex, `size` in bytes."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: Count


class Provenance(Strict):
    """Where the weights came from and what converted them. `sha256` is the source file's."""

    source: str
    format: str
    sha256: str | None = None
    licence: str | None = None
    versions: dict[str, str]


class Variant(Strict):
    """One more graph of the backbone, for some engines in some precisions; others run `model.onnx`.

    `graph`: its file. `calibration`: of int8, what its ranges were found on.
    """

    graph: str
    engines: Annotated[tuple[EngineName, ...], Field(min_length=1)]
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)]
    calibration: Sentence | None = None

    def summary(self) -> str:
        """What runs it, in words."""
        words = f"{' and '.join(self.precisions)} on {' and '.join(self.engines)}"
        return words if self.calibration is None else f"{words}, with {self.calibration}"


class Parity(Strict):
    """Largest difference to the PyTorch model, relative to its largest value, at export.

    `sizes` are the (H, W) inputs compared; `cls`, `patches` and each of the `heads` the worst over
    all of them. `cosine`: the lowest of any token's features with PyTorch's. `mask_agreement`: the
    share of patches whose class is the same as PyTorch's.
    """

    engine: str
    precision: str
    sizes: tuple[tuple[Positive, Positive], ...]
    cls: float
    patches: float
    heads: dict[HeadTask, float] = Field(default_factory=dict)
    cosine: float | None = None
    mask_agreement: float | None = None

    def summary(self) -> str:
        """The differences in words."""
        parts = [("[CLS]", self.cls), ("patches", self.patches), *self.heads.items()]
        words = ", ".join(f"{name} {value:.1e}" for name, value in parts)
        if self.precision == "fp32" or self.cosine is None:
            return words
        return f"{words}; lowest cosine {self.cosine:.6f}"


class Manifest(Strict):
    """Everything a runtime needs to know about a bundle. Paths in `files` are POSIX, relative.

    `description`: a sentence by whoever trained the model, such as what it was trained on.
    `storage`: with fp16 the backbone's matrices are rounded to half precision, and stored in it.
    `variants`: the first one that fits is run.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    description: Sentence | None = None
    storage: Storage = "fp32"
    architecture: Architecture
    preprocessing: Preprocessing
    position: Annotated[LearnedPosition | RotaryPosition, Field(discriminator="kind")]
    outputs: Annotated[tuple[Output, ...], Field(min_length=1)]
    heads: tuple[AnyHead, ...] = ()
    variants: tuple[Variant, ...] = ()
    provenance: Provenance
    parity: tuple[Parity, ...]
    files: dict[str, File]

    def precisions(self, engine: EngineName) -> tuple[Precision, ...]:
        """In which an engine can run the bundle, in the order of `Precision`."""
        own = {each for variant in self.variants_of(engine) for each in variant.precisions}
        return tuple(p for p in get_args(Precision) if p in own or p in OF_FP32[engine])

    def variants_of(self, engine: EngineName) -> list[Variant]:
        """Those that are for an engine."""
        return [variant for variant in self.variants if engine in variant.engines]

    @model_validator(mode="after")
    def _heads_take_what_there_is(self) -> Self:
        tasks = [head.task for head in self.heads]
        if len(set(tasks)) < len(tasks):
            raise ValueError(f"two heads answer {max(tasks, key=tasks.count)}")
        for head in self.heads:
            lacking = [output.name for output in head.inputs if output not in self.outputs]
            if lacking:
                raise ValueError(f"the head for {head.task} takes {lacking[0]}, which is no output")
        return self
