"""Which models of Triton's serve a bundle, and what goes into and comes out of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from clsspec_export.triton.size import Size
from clsspec_serve.bundle import GRAPH, HEADS
from clsspec_serve.choices import HeadTask
from clsspec_serve.errors import UsageError
from clsspec_serve.heads import AnyHead, DepthHead, SegmentationHead, answer_shape
from clsspec_serve.manifest import Manifest
from clsspec_serve.schema import Output
from clsspec_serve.transform import CHANNELS

DataType = Literal["TYPE_UINT8", "TYPE_FP32"]


@dataclass(frozen=True)
class Tensor:
    """What a model takes or gives of one picture: `dims` are without the batch."""

    name: str
    data_type: DataType
    dims: tuple[int, ...]


@dataclass(frozen=True)
class GraphModel:
    """A model with a graph: the backbone, or a `head` on its features.

    `graph`: the file in the bundle.
    """

    name: str
    graph: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    head: AnyHead | None = None


@dataclass(frozen=True)
class Ensemble:
    """The backbone and then one or more heads, from pixels to features and answers."""

    name: str
    backbone: GraphModel
    heads: tuple[GraphModel, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Those of the backbone."""
        return self.backbone.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """All that the models give."""
        return tuple(each for model in self.steps for each in model.outputs)

    @property
    def steps(self) -> tuple[GraphModel, ...]:
        """The models in order."""
        return (self.backbone, *self.heads)


AnyModel = GraphModel | Ensemble


@dataclass(frozen=True)
class Plan:
    """The models of a repository; `size` is (H, W) of the pictures in pixels."""

    size: Size
    graphs: tuple[GraphModel, ...]
    ensembles: tuple[Ensemble, ...]

    @property
    def models(self) -> tuple[AnyModel, ...]:
        """All of them; what an ensemble is made of comes before it."""
        return (*self.graphs, *self.ensembles)


def plan(manifest: Manifest, size: Size) -> Plan:
    """The backbone, each head, an ensemble for each head, and one for all where there are several.

    Raises `UsageError` for a bundle without a name.
    """
    patch = manifest.architecture.patch_size
    grid = (size[0] // patch, size[1] // patch)
    width = manifest.architecture.embed_dim
    tasks = [head.task for head in manifest.heads]
    name, *others = model_names(manifest.name, tasks)
    of_heads, of_ensembles = others[: len(tasks)], others[len(tasks) :]

    def feature(output: Output) -> Tensor:
        dims = (width,) if output.kind == "cls" else (*grid, width)
        return Tensor(output.name, "TYPE_FP32", dims)

    pixels = Tensor("pixels", "TYPE_UINT8", (CHANNELS, *size))
    backbone = GraphModel(name, GRAPH, (pixels,), tuple(map(feature, manifest.outputs)))
    heads = tuple(
        GraphModel(
            of_head,
            f"{HEADS}/{head.task}.onnx",
            tuple(map(feature, head.inputs)),
            (Tensor(head.task, "TYPE_FP32", answer_shape(head, 1, grid)[1:]),),
            head,
        )
        for of_head, head in zip(of_heads, manifest.heads, strict=True)
    )
    chains = [(model,) for model in heads] + ([heads] if len(heads) > 1 else [])
    ensembles = tuple(
        Ensemble(of_ensemble, backbone, chain)
        for of_ensemble, chain in zip(of_ensembles, chains, strict=True)
    )
    return Plan(size, (backbone, *heads), ensembles)


def model_names(name: str, tasks: Sequence[HeadTask]) -> list[str]:
    """What the models of a bundle are called that has heads for these tasks, in a plan's order.

    All but letters, digits, `-` and `_` become `_`, as they are folders and part of addresses.
    Raises `UsageError` for a bundle without a name.
    """
    own = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if not own:
        raise UsageError("the bundle has no name, which its models in Triton would have")
    heads = [f"{own}_{task}_head" for task in tasks]
    several = [f"{own}_predict"] if len(tasks) > 1 else []
    return [own, *heads, *(f"{own}_{task}" for task in tasks), *several]


def class_names(head: AnyHead) -> tuple[str, ...]:
    """In order; none where the head has no classes."""
    if isinstance(head, DepthHead):
        return ()
    if isinstance(head, SegmentationHead):
        return tuple(each.name for each in head.classes)
    return head.classes
