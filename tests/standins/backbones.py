"""Checkpoints small enough to export in seconds, one per kind of backbone, and their exports."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # torch and timm take seconds to import; most tests need neither
    from clsspec_export.checkpoints.checkpoint import Checkpoint
    from clsspec_serve.bundle import Bundle
    from clsspec_serve.layers import Layer
    from clsspec_serve.manifest import Architecture, Specialization, Variant
    from clsspec_serve.schema import Output

WIDTH = 72
"""Three heads of 24. A vector of it is beyond the 256 bytes that stay inside an ONNX file, and it
is no multiple of 16, to which ONNX Runtime pads the channels of convolutions."""

DINOV2 = "vit_small_patch14_dinov2"
REG4 = "vit_small_patch14_reg4_dinov2"
SWIGLU = "vit_giant_patch14_dinov2"
CLIP = "vit_base_patch16_clip_224"
DINOV3 = "vit_small_patch16_dinov3"
EVA = "eva_giant_patch14_224"


def tiny(
    base: str = DINOV2,
    specialization: Specialization | None = None,
    *,
    attention_bias: bool = False,
    seed: int = 0,
    **kwargs: Any,
) -> Checkpoint:
    """timm's `base` with 2 blocks, 72 wide, on 4 x 4 patches, random weights, specialized.

    Without a `specialization` nothing is split. Every weight of a split layer differs.
    """
    import timm

    from clsspec_export.checkpoints.checkpoint import Checkpoint
    from clsspec_export.checkpoints.preprocessing import DINOV2 as DINOV2_PREPROCESSING
    from clsspec_export.checkpoints.timm_files import timm_position
    from clsspec_export.random_weights import randomize
    from clsspec_export.specialize import PLAIN, specialize

    patch = 16 if "patch16" in base else 14
    size = {"embed_dim": WIDTH, "depth": 2, "num_heads": 3, "img_size": 4 * patch}
    model = timm.create_model(base, **({"num_classes": 0} | size | kwargs)).eval()
    specialize(model, specialization or PLAIN, attention_bias=attention_bias)
    randomize(model, seed)
    position, table = timm_position(model)
    side = int(model.patch_embed.img_size[0])
    preprocessing = DINOV2_PREPROCESSING.model_copy(update={"size": (side, side), "resize": None})
    return Checkpoint(model, base, "random", position, table, preprocessing)


def families() -> dict[str, Callable[[], Checkpoint]]:
    """One checkpoint per kind of backbone that the exporter has to lower differently."""
    from clsspec_serve.manifest import Specialization

    split = Specialization(qkv_blocks=1)
    patch = Specialization(qkv_blocks=1, registers_with="patch")
    return {
        "plain": lambda: tiny(),
        "specialized": lambda: tiny(DINOV2, split),
        "registers with cls": lambda: tiny(REG4, split),
        "registers with patch": lambda: tiny(REG4, patch),
        "attention bias": lambda: tiny(DINOV2, split, attention_bias=True),
        "swiglu": lambda: tiny(SWIGLU, split),
        "norm_pre": lambda: tiny(CLIP, split),
        "rotary": lambda: tiny(DINOV3, split),
        "EVA with learned positions": lambda: tiny(EVA, split),
        "no LayerScale, no final norm": lambda: tiny(
            DINOV2,
            split,
            init_values=0,
            final_norm=False,  # timm takes None for its default
        ),
    }


FAMILIES = (
    "plain",
    "specialized",
    "registers with cls",
    "registers with patch",
    "attention bias",
    "swiglu",
    "norm_pre",
    "rotary",
    "EVA with learned positions",
    "no LayerScale, no final norm",
)
"""The keys of `families`, for parametrization without importing timm."""
USUAL = ("plain", "specialized", "registers with patch", "attention bias", "rotary")
"""Those that are exported each time; `make stress` exports all."""


def all_outputs(checkpoint: Checkpoint) -> tuple[Output, ...]:
    """[CLS] and patches after every block, without and (where there is one) with the final norm."""
    import torch

    from clsspec_serve.schema import Output

    normed = not isinstance(checkpoint.model.norm, torch.nn.Identity)
    return tuple(
        Output(name=f"{kind}_{layer}{'' if norm else '_raw'}", kind=kind, layer=layer, norm=norm)
        for layer in range(len(checkpoint.model.blocks))
        for norm in ((True, False) if normed else (False,))
        for kind in ("cls", "patches")
    )


@dataclass(frozen=True)
class Exported:
    """A graph with everything it was made from."""

    checkpoint: Checkpoint
    outputs: tuple[Output, ...]
    architecture: Architecture
    graph: Path


def export_backbone(checkpoint: Checkpoint, path: Path) -> None:
    """Export a checkpoint with all outputs, without any check."""
    from clsspec_export.backbone import Backbone
    from clsspec_export.onnx_graph import export_graph
    from clsspec_export.pixels import fold_pixels

    embed = fold_pixels(checkpoint.model.patch_embed.proj, checkpoint.preprocessing)
    export_graph(Backbone(checkpoint.model, all_outputs(checkpoint), embed), path)


def described(checkpoint: Checkpoint, path: Path) -> Exported:
    """What `export_backbone` has written."""
    from clsspec_export.architectures import describe

    architecture = describe(checkpoint.architecture, checkpoint.model)
    return Exported(checkpoint, all_outputs(checkpoint), architecture, path)


def write_graph(checkpoint: Checkpoint, path: Path) -> Exported:
    """Both."""
    export_backbone(checkpoint, path)
    return described(checkpoint, path)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker to ask for it fills, for all of them. Not to be changed."""
    from filelock import FileLock

    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    done = folder.with_name(f"{name}.done")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not done.exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """The graph of a family by its name, written once for all workers. Not to be changed."""
    done: dict[str, Exported] = {}

    def get(family: str) -> Exported:
        if family not in done:
            checkpoint = families()[family]()
            folder = made_once(
                tmp_path_factory,
                f"graph of {family}",
                lambda folder: export_backbone(checkpoint, folder / "model.onnx"),
            )
            done[family] = described(checkpoint, folder / "model.onnx")
        return done[family]

    return get


PHOTOGRAPHS = tuple(
    sorted((Path(__file__).parents[2] / "export/clsspec_export/photographs").glob("*.jpg"))
)
"""Those that ship with clsspec."""
WRITTEN = "registers with patch"
"""[CLS] alone has weights of its own, so that a boundary is no number of prefix tokens."""


@dataclass(frozen=True)
class Written(Exported):
    """All the graphs of a backbone, in every precision; `pictures`: what int8 was shown."""

    variants: tuple[Variant, ...]
    pictures: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """With `model.onnx`, the variants' graphs and their weights."""
        return self.graph.parent


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """What `write_graphs` makes of `WRITTEN`, once for all workers. Not to be changed."""
    from clsspec_export.architectures import describe
    from clsspec_export.graphs import write_graphs
    from clsspec_serve.manifest import Variant

    checkpoint, pictures = families()[WRITTEN](), PHOTOGRAPHS
    outputs = all_outputs(checkpoint)

    def make(folder: Path) -> None:
        made = write_graphs(checkpoint, outputs, folder, ("int8", "bf16", "fp16"), pictures)
        notes = json.dumps([each.model_dump(mode="json") for each in made])
        folder.with_name("written.json").write_text(notes)

    folder = made_once(tmp_path_factory, "written", make)
    notes = folder.with_name("written.json")
    variants = tuple(map(Variant.model_validate, json.loads(notes.read_text())))
    architecture = describe(checkpoint.architecture, checkpoint.model)
    return Written(checkpoint, outputs, architecture, folder / "model.onnx", variants, pictures)


@pytest.fixture(scope="session")
def exported_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The specialized family as `export_bundle` writes it, with layer 0. Not to be changed."""
    from clsspec_serve.bundle import open_bundle
    from clsspec_serve.layers import Layer

    def make(folder: Path) -> None:
        write_bundle(families()["specialized"](), folder / "tiny", [Layer(0, True)])

    folder = made_once(tmp_path_factory, "bundle of specialized", make) / "tiny"
    return open_bundle(folder)


def write_bundle(checkpoint: Checkpoint, folder: Path, layers: Sequence[Layer] = ()) -> None:
    """`export_bundle` with an origin that has every field."""
    from clsspec_export.checkpoints.checkpoint import Origin
    from clsspec_export.export import export_bundle

    origin = Origin("random:tiny", sha256="0" * 64, licence="MIT", licence_text="You may.\n")
    export_bundle(checkpoint, folder, origin, layers=layers)
